"""What two versions write about the same images, for a person to look at: kept with the record of the younger one.

Held-out images only, and the newest: no version was trained on them, and their annotators are still around. Kept and
not made again when somebody looks, as the weights of a refused version are not.
"""

from collections.abc import Sequence
from typing import Any

import torch

from model.attention import grid_columns, hexadecimal
from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from worker.learning.dataset import CorrectedImage

SHOWN = 8


def side_by_side(
    serving: Captioner, candidate: Captioner, held_out: Sequence[CorrectedImage]
) -> tuple[dict[str, Any], ...]:
    """Return for each of the newest held-out images its correction, and both captions with their attention."""
    newest = list(held_out[-SHOWN:])[::-1]
    if not newest:
        return ()
    features = torch.stack([one.example.features for one in newest])
    captions = [captioner.caption(features, DecodingOptions()) for captioner in (serving, candidate)]
    return tuple(
        {
            "correction": one.correction.name,
            "written": one.correction.caption,
            "before": _told(before[0]),
            "after": _told(after[0]),
        }
        for one, before, after in zip(newest, *captions, strict=True)
    )


def _told(caption: Caption) -> dict[str, Any]:
    rows = [(token, hexadecimal(row)) for token, row in zip(caption.tokens, caption.attention, strict=True)]
    return {"caption": caption.text, "columns": grid_columns(caption.attention), "words": rows}
