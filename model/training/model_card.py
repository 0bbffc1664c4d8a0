"""The model card that `captioner train` writes beside a bundle."""

from collections.abc import Mapping
from typing import Any

TEXT = """# {version}

An attention LSTM over the features of {encoder}, made by `captioner train` from {train_images} captioned images.{base}
It writes what people wrote about images like those. It sees nothing else and states no certainty about people; the
annotator must correct it where it is wrong.
The terms of the training images, captions and encoder weights are those of their owners.

Measured on {held_out_images} images that it was not trained on:

{metrics}

The `record` in bundle.json says how it was made, with the losses of each epoch.
"""


def model_card(version: str, record: Mapping[str, Any]) -> str:
    """Return the card as Markdown, with the numbers of the bundle's record."""
    start = record["started_from"]
    base = f" It went on from {start['version']}, whose model card says what that one learned from." if start else ""
    metrics = metrics_table(record["held_out_metrics"], start and start["held_out_metrics"])
    return TEXT.format(**{**record, "version": version, "base": base, "metrics": metrics})


def metrics_table(metrics: Mapping[str, float], before: Mapping[str, float] | None) -> str:
    """Return the metrics as a Markdown table; a bundle that was trained further has a column for the earlier ones."""
    rows: list[tuple[str, ...]] = [("metric", "before", "after") if before else ("metric", "value")]
    rows.append(("---",) * len(rows[0]))
    for name, value in metrics.items():
        if name != "images":
            rows.append((name, *([f"{before[name]:.4g}"] if before else []), f"{value:.4g}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
