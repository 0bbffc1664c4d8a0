"""Reads `/metrics` as Prometheus does."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, float]:
    """Return each sample by its name with its labels in order of their names: `captioner_x{a="1",b="2"}`."""
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return values


def series_names(text: str) -> set[str]:
    """Return every name that a query may use, also of series that have no samples yet."""
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        declared + end
        for line in text.splitlines()
        if line.startswith("# TYPE ")
        for declared, kind in [line.split(" ")[2:]]
        for end in ends.get(kind, ("",))
    }
