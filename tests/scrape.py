"""What `/metrics` says, as Prometheus reads it."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, float]:
    """Return each sample by its name with its labels in order of their names: `captioner_x{a="1",b="2"}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def series_names(text: str) -> set[str]:
    """Return every name that a query may ask for, be there samples yet or not."""
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        declared + end
        for line in text.splitlines()
        if line.startswith("# TYPE ")
        for declared, kind in [line.split(" ")[2:]]
        for end in ends.get(kind, ("",))
    }
