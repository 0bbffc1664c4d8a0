"""The model card that `captioner train` writes beside a bundle."""

from collections.abc import Mapping
from typing import Any


def model_card(version: str, record: Mapping[str, Any]) -> str:
    start = record["started_from"]
    first = f" It went on from {start['version']}, whose model card says what that had learned." if start else ""
    return f"""# {version}

An attention LSTM over the features of {record["encoder"]}, made by `captioner train` from
{record["train_images"]} captioned images.{first} It writes what people wrote about images like those; it sees nothing
else, states no certainty about people, and must be corrected by the annotator where it is wrong.
The terms of the training images, captions and encoder weights are those of their owners.

Measured on {record["held_out_images"]} images that it was not trained on:

{metrics_table(record["held_out_metrics"], start and start["held_out_metrics"])}

How it was made, losses included, is the `record` in bundle.json.
"""


def metrics_table(metrics: Mapping[str, float], before: Mapping[str, float] | None) -> str:
    """Return Markdown, with the bundle's before beside those after if it went on from one."""
    rows: list[tuple[str, ...]] = [("metric", "before", "after") if before else ("metric", "value")]
    rows.append(("---",) * len(rows[0]))
    for name, value in metrics.items():
        if name != "images":
            rows.append((name, *([f"{before[name]:.4g}"] if before else []), f"{value:.4g}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
