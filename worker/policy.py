"""The decisions of learning, as pure functions: when to retrain, what to hold out, what to publish.

Losses are mean negative log-likelihoods of whole captions in nats, so that decoders with different vocabularies
compare: a word that one spells in bytes and the other knows is one caption to both.
"""

from dataclasses import dataclass

HELD_OUT_SHARE = 5
"""One image in this many is held out."""

ANCHOR_TOLERANCE = 3.0
"""Nats by which the loss on anchors may exceed the serving version's. A project's own wording differs from the
bundle's: who writes "crimson" three times as often as "red" makes each "red" ln(1 + 3) = 1.4 nats less probable. Two
such habits are wanted learning, more is forgetting."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How well one version expects captions it was not trained on."""

    held_out_loss: float | None
    """On the project's held-out corrections; None while there are none."""
    held_out: int
    """How many those are."""
    anchor_loss: float | None
    """On captions of the bundle that are never trained on; None when the bundle has none."""
    anchors: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a candidate may serve, and why, in words for a person."""

    publish: bool
    reason: str


def should_retrain(waiting: int, retrain_after: int) -> bool:
    """Tell whether enough changes wait that no training has taken yet."""
    return waiting >= retrain_after


def is_quiet(quiet_s: float, retrain_idle_s: int) -> bool:
    """Tell whether the newest change is old enough to train on fewer; RETRAIN_IDLE_S of 0 says it never is."""
    return retrain_idle_s > 0 and quiet_s >= retrain_idle_s


def is_held_out(image_key: str) -> bool:
    """Tell whether an image is for evaluation only; its content decides, so it is so for ever and everywhere."""
    return int(image_key[:8], 16) % HELD_OUT_SHARE == 0


def is_better(candidate: Metrics, serving: Metrics) -> Decision:
    """Decide whether a candidate may serve: better on the project's held-out captions, not worse on the anchors.

    While the project has no held-out caption, the anchors alone must show no harm.
    """
    harm = _anchor_harm(candidate, serving)
    if harm is not None:
        return Decision(publish=False, reason=harm)
    if candidate.held_out_loss is None or serving.held_out_loss is None:
        return Decision(publish=True, reason=f"no correction is held out yet; {_anchors(candidate, serving)}")
    told = (
        f"held-out loss {candidate.held_out_loss:.3f} against {serving.held_out_loss:.3f} nats per caption "
        f"({candidate.held_out} held out); {_anchors(candidate, serving)}"
    )
    if candidate.held_out_loss < serving.held_out_loss:
        return Decision(publish=True, reason=f"better: {told}")
    return Decision(publish=False, reason=f"not better: {told}")


def _anchor_harm(candidate: Metrics, serving: Metrics) -> str | None:
    if candidate.anchor_loss is None or serving.anchor_loss is None:
        return None
    if candidate.anchor_loss <= serving.anchor_loss + ANCHOR_TOLERANCE:
        return None
    return f"it forgets: {_anchors(candidate, serving)}, more than {ANCHOR_TOLERANCE} worse"


def _anchors(candidate: Metrics, serving: Metrics) -> str:
    if candidate.anchor_loss is None or serving.anchor_loss is None:
        return "the bundle has no anchors"
    return (
        f"anchor loss {candidate.anchor_loss:.3f} against {serving.anchor_loss:.3f} nats per caption "
        f"({candidate.anchors} anchors)"
    )
