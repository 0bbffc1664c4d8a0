"""Our captions as Label Studio's predictions."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from backend.protocol.label_config import CaptionControl
from model.captioner import Caption


def make_predictions(
    captions: Mapping[CaptionControl, Sequence[Caption]], model_version: str, alternatives: int = 1
) -> list[dict[str, Any]]:
    """Return up to `alternatives` predictions of one task, the best one last: the one the page prefills.

    Args:
        captions: of each caption control, best first, at least one; without any control the prediction is an empty
            one, which Label Studio stores and shows nothing of.
        model_version: must equal what /setup answers, or Label Studio asks for this task again and again.
    """
    if not captions:
        return [{"model_version": model_version, "result": []}]
    count = min(alternatives, max(len(found) for found in captions.values()))
    ranks = reversed(range(count))
    return [
        make_prediction(
            {control: found[min(rank, len(found) - 1)] for control, found in captions.items()}, model_version
        )
        for rank in ranks
    ]


def make_prediction(captions: Mapping[CaptionControl, Caption], model_version: str) -> dict[str, Any]:
    """Return one prediction with a region for each control; it is as sure as its least sure caption."""
    return {
        "model_version": model_version,
        "score": min(caption.score for caption in captions.values()),
        "result": [_make_region(control, caption, model_version) for control, caption in captions.items()],
    }


def _make_region(control: CaptionControl, caption: Caption, model_version: str) -> dict[str, Any]:
    identity = "\n".join((model_version, control.from_name, caption.text))
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:10],
        "from_name": control.from_name,
        "to_name": control.to_name,
        "type": "textarea",
        "value": {"text": [caption.text]},
        "score": caption.score,
    }
