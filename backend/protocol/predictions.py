"""Our captions as Label Studio's predictions."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.protocol.label_config import CaptionControl


@dataclass(frozen=True, kw_only=True)
class SuggestedCaption:
    """A caption as annotators see it."""

    text: str
    score: float
    """0 to 1."""
    own_score: float = 0.0
    """The decoder's own of it, or how well look-alike images speak for it, 0 to 1; nobody has judged either."""
    version: str = ""
    """Of the decoder that wrote it; empty for a caption that the memory chose."""
    like: tuple[str, ...] = ()
    """Names of the corrections of look-alike images that speak for it most; none where the decoder suggested alone."""


def make_predictions(
    captions: Mapping[CaptionControl, Sequence[SuggestedCaption]], model_version: str
) -> list[dict[str, Any]]:
    """Return the predictions of one task, worst first: Label Studio fills the page with the last one.

    Args:
        captions: alternatives for each control, best first, at least one. A control with fewer alternatives than
            another repeats its last one. Without any control there is one empty prediction, which Label Studio stores
            and does not show.
        model_version: equals the answer of /setup; otherwise Label Studio asks for this task again and again.
    """
    if not captions:
        return [{"model_version": model_version, "result": []}]
    ranks = range(max(len(alternatives) for alternatives in captions.values()))
    return [
        make_prediction(
            {control: alternatives[min(rank, len(alternatives) - 1)] for control, alternatives in captions.items()},
            model_version,
        )
        for rank in reversed(ranks)
    ]


def make_prediction(captions: Mapping[CaptionControl, SuggestedCaption], model_version: str) -> dict[str, Any]:
    """Return one prediction with a region for each control; its score is the lowest of its captions."""
    return {
        "model_version": model_version,
        "score": min(caption.score for caption in captions.values()),
        "result": [_make_region(control, caption, model_version) for control, caption in captions.items()],
    }


def _make_region(control: CaptionControl, caption: SuggestedCaption, model_version: str) -> dict[str, Any]:
    identity = "\n".join((model_version, control.from_name, caption.text))
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:10],
        "from_name": control.from_name,
        "to_name": control.to_name,
        "type": "textarea",
        "value": {"text": [caption.text]},
        "score": caption.score,
    }


def texts_of(region: Mapping[str, Any]) -> list[str]:
    """Return the texts of a region of anybody's prediction; none for a relation, or where something else stands."""
    value = region.get("value")
    text = value.get("text") if isinstance(value, Mapping) else None
    texts = text if isinstance(text, list) else [text]
    return [text for text in texts if isinstance(text, str)]
