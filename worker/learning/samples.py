"""Captions of two versions for the same images, for a person to compare; kept with the record of the newer version.

The samples are the newest held-out images: no version was trained on them, and their annotators are still around. They
are made once and kept, because the weights of a refused version are not kept.
"""

from collections.abc import Sequence
from typing import Any

import torch

from model.attention import grid_columns, hexadecimal
from model.captioner import Caption
from model.decoders.search import DecodingOptions
from model.torch_captioner import TorchCaptioner
from worker.learning.dataset import CorrectedImage

SHOWN = 8


def side_by_side(
    serving: TorchCaptioner, candidate: TorchCaptioner, held_out: Sequence[CorrectedImage]
) -> tuple[dict[str, Any], ...]:
    """Return for each of the newest held-out images its correction, and both captions with their attention."""
    newest = list(held_out[-SHOWN:])[::-1]
    if not newest:
        return ()
    features = torch.stack([corrected.example.features for corrected in newest])
    captions = [captioner.caption(features, DecodingOptions()) for captioner in (serving, candidate)]
    return tuple(
        {
            "correction": corrected.correction.name,
            "written": corrected.correction.caption,
            "before": _as_json(before[0]),
            "after": _as_json(after[0]),
        }
        for corrected, before, after in zip(newest, *captions, strict=True)
    )


def _as_json(caption: Caption) -> dict[str, Any]:
    rows = [(token, hexadecimal(row)) for token, row in zip(caption.tokens, caption.attention, strict=True)]
    return {"caption": caption.text, "columns": grid_columns(caption.attention), "words": rows}
