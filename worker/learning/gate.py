"""The gate: whether a candidate may serve in the place of the version it was trained from.

Both are measured on the same captions, which no version was ever trained on: what annotators wrote since the serving
version was trained (new), what they had written before (old), and captions of the bundle (anchors). By how much the
candidate expects them better is known only as well as the sample is large, so the gate asks a paired bootstrap (Efron
1979; Koehn 2004, https://aclanthology.org/W04-3250): in how many of a thousand samples like this one it would be so.

Losses are in nats per word of a caption, its end counted as one, so that decoders with different vocabularies compare.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.learning.relevance import FEWEST, WON_ENOUGH, Relevance

DRAWS = 1000
ENOUGH_TO_SHOW = 10
"""Held-out captions by which a candidate may show that captions mean something which the serving version cannot read:
a language used by mistake in one batch is not taken up, one that is meant comes again."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The loss of each caption to the candidate and to the serving version."""

    candidate: tuple[float, ...]
    serving: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.candidate)

    def summary(self) -> dict[str, float | int]:
        """Return what is kept of it: sample size, both means, and in how many draws the candidate is better."""
        if not self:
            return {"captions": 0}
        return {
            "captions": len(self),
            "candidate": _mean(self.candidate),
            "serving": _mean(self.serving),
            "better_in": self.share_of_draws(0.0),
        }

    def share_of_draws(self, gain: float) -> float:
        """Return the share of bootstrap samples in which the candidate's mean loss is lower by more than `gain`."""
        gains = torch.tensor(self.serving) - torch.tensor(self.candidate)
        drawn = torch.randint(len(self), (DRAWS, len(self)), generator=torch.Generator().manual_seed(len(self)))
        return float((gains[drawn].mean(dim=1) > gain).float().mean())

    def __str__(self) -> str:
        return f"{_mean(self.candidate):.3f} against {_mean(self.serving):.3f} nats per word on {len(self)}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """All that the gate knows of a candidate."""

    new: Sample
    """On held-out captions written since the serving version was trained."""
    old: Sample
    """On held-out captions it was measured on already."""
    anchors: Sample
    """On captions of the bundle."""
    relevance: Relevance | None = None
    """Of the new captions, as the serving version sees them; None when there are too few to compare."""
    own: Relevance | None = None
    """Of what the serving version itself writes about the same images."""
    learned: Relevance | None = None
    """Of the new held-out captions, as the candidate sees them."""
    is_another_language: bool = False
    """Whether annotators no longer write a word of what is proposed to them."""

    @property
    def shows_sense(self) -> bool:
        """Whether the candidate can tell enough images apart by what annotators wrote about them."""
        return self.learned is not None and self.learned.captions >= ENOUGH_TO_SHOW and self.learned.is_sure

    @property
    def is_finite(self) -> bool:
        samples = (self.new, self.old, self.anchors)
        return all(math.isfinite(loss) for sample in samples for loss in (*sample.candidate, *sample.serving))

    def relevances(self) -> dict[str, Relevance]:
        """Return what is known of them, by name."""
        known = {"people": self.relevance, "own": self.own, "learned": self.learned}
        return {name: found for name, found in known.items() if found is not None}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a candidate may serve, and why, in words for a person."""

    publish: bool
    reason: str


def decide(trial: Trial, *, confidence: float, tolerance: float) -> Decision:
    """Decide whether a candidate may serve: captions that make sense, better on new ones, not worse on old ones.

    Args:
        trial: what was measured.
        confidence: share of draws that must be better on the new captions, 0 to 1.
        tolerance: nats per word by which old captions and anchors may become less probable: a project's own wording
            differs from the bundle's, and who writes "crimson" for "red" makes each "red" less probable.
    """
    told = _told(trial)
    for refusal in (_no_number(trial), _irrelevant(trial), _forgetful(trial, tolerance)):
        if refusal is not None:
            return Decision(publish=False, reason=f"{refusal}; {told}")
    if not trial.new:
        return Decision(publish=True, reason=f"not worse, and no new correction is held out; {told}")
    better_in = trial.new.share_of_draws(0.0)
    if better_in < confidence:
        said = f"not better: only in {better_in:.0%} of draws, {confidence:.0%} are needed"
        return Decision(publish=False, reason=f"{said}; {told}")
    return Decision(publish=True, reason=f"better in {better_in:.0%} of draws; {told}")


def _no_number(trial: Trial) -> str | None:
    return None if trial.is_finite else "broken: a loss is no number"


def _irrelevant(trial: Trial) -> str | None:
    """Unless one of the two versions sees that the new captions are about their images, they teach nothing.

    One that cannot tell these images apart by its own captions is not asked.
    """
    seen, own = trial.relevance, trial.own
    if seen is None or own is None or own.won < WON_ENOUGH:
        return None
    suits = seen.is_sure if seen.captions >= FEWEST else seen.won >= WON_ENOUGH
    if suits or trial.shows_sense:
        return None
    return (
        f"the new captions suit other images as well: of comparisons they win {seen.won:.0%} "
        f"({seen.captions} captions; chance is 50%, the serving version's own win {own.won:.0%}); "
        f"more captions may show that they mean something"
    )


def _forgetful(trial: Trial, tolerance: float) -> str | None:
    if trial.is_another_language and trial.shows_sense:
        return None  # who turns to another language gives up the one before
    for name, sample in (("anchors", trial.anchors), ("old corrections", trial.old)):
        if sample and sample.share_of_draws(-tolerance) < 0.5:
            return f"it forgets: {name} lose more than {tolerance:.2f} nats per word"
    return None


def _told(trial: Trial) -> str:
    samples = {"new corrections": trial.new, "old ones": trial.old, "anchors": trial.anchors}
    return ", ".join(f"{name} {sample}" for name, sample in samples.items() if sample) or "nothing is held out"


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
