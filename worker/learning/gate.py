"""The gate: may a candidate serve in place of the version it was trained from?

Both are measured on the same held-out captions, which no version was trained on:
- new: captions that annotators wrote since the served version was trained;
- old: captions that they had written before;
- anchors: captions of the bundle.

A small sample shows a gain less surely than a large one. So the gate uses a paired bootstrap (Efron 1979; Koehn 2004,
https://aclanthology.org/W04-3250): it draws a thousand samples like the measured one and counts those with a gain.

Losses are in nats per word of a caption, its end counted as a word, so that decoders with different vocabularies can be
compared. They say how well a version reads captions of people. What it writes itself is measured in
worker/learning/writing.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from worker.learning.relevance import FEWEST, WON_ENOUGH, Relevance
from worker.learning.writing import Writing

DRAWS = 1000
ENOUGH_TO_SHOW = 10
"""Held-out captions that a candidate needs to show that new captions make sense which the served version cannot read.
One batch in a wrong language is too few. A deliberate change of language continues until there are enough."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The loss of each caption, by the candidate and by the served version."""

    candidate: tuple[float, ...]
    serving: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.candidate)

    def summary(self) -> dict[str, float | int]:
        """Return the sample's size, both means, and the share of draws in which the candidate is better."""
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
        count = "1 caption" if len(self) == 1 else f"{len(self)} captions"
        return f"{_mean(self.candidate):.3f} against {_mean(self.serving):.3f} ({count})"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """All measurements of a candidate that the gate uses."""

    new: Sample
    """On held-out captions written since the served version was trained."""
    old: Sample
    """On held-out captions that the served version was measured on already."""
    anchors: Sample
    """On captions of the bundle."""
    relevance: Relevance | None = None
    """Of the new captions, judged by the served version; None when there are too few to compare."""
    own: Relevance | None = None
    """Of captions that the served version itself writes about the same images."""
    learned: Relevance | None = None
    """Of the new held-out captions, judged by the candidate."""
    writing: Writing | None = None
    """What both versions write for the same images."""
    is_another_language: bool = False
    """Annotators no longer write a word of the captions that are suggested to them."""

    @property
    def shows_sense(self) -> bool:
        """The candidate can tell enough images apart by what annotators wrote about them."""
        return self.learned is not None and self.learned.captions >= ENOUGH_TO_SHOW and self.learned.is_sure

    @property
    def is_finite(self) -> bool:
        samples = (self.new, self.old, self.anchors)
        return all(math.isfinite(loss) for sample in samples for loss in (*sample.candidate, *sample.serving))

    def relevances(self) -> dict[str, Relevance]:
        """Return the measured relevances by name."""
        relevances = {"people": self.relevance, "own": self.own, "learned": self.learned}
        return {name: relevance for name, relevance in relevances.items() if relevance is not None}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer of the gate, with the reason in words for a person."""

    publish: bool
    reason: str
    """With everything that was measured."""
    plain: str = ""
    """For people who own a project: without losses and without statistics."""
    is_about_corrections: bool = False
    """The corrections are refused, or the training failed: no other candidate of this training can pass."""


def decide(trial: Trial, *, confidence: float, tolerance: float) -> Decision:
    """Decide whether a candidate may serve.

    The new captions must make sense, the candidate must be better on them and not worse on old ones, and it must write
    as cleanly as the served version.

    Args:
        trial: the measurements.
        confidence: share of draws that must be better on the new captions, 0 to 1.
        tolerance: nats per word by which old captions and anchors may become less probable. A project's own wording
            differs from the bundle's: if annotators write "crimson" for "red", each "red" becomes less probable.
    """
    losses = _losses(trial)
    for refusal in (_not_finite(trial), _irrelevant(trial)):
        if refusal is not None:
            return replace(refusal.decision(losses), is_about_corrections=True)
    better_in = trial.new.share_of_draws(0.0) if trial.new else 1.0
    for refusal in (_forgetful(trial, tolerance), _unclean(trial), _unsure(better_in, confidence)):
        if refusal is not None:
            return refusal.decision(losses)
    if not trial.new:
        reason = "The new model is not worse on older captions; no new caption was held out to measure it on."
        plain = (
            "Published: the new version is not worse on older captions. No new caption was kept aside to measure it on."
        )
        return Decision(publish=True, reason=f"{reason} {losses}", plain=plain)
    reason = f"The new model is better on new captions in {better_in:.0%} of random samples."
    plain = "Published: the new version fits recent captions better."
    return Decision(publish=True, reason=f"{reason} {losses}", plain=plain)


class _Refusal(NamedTuple):
    """Why a candidate may not serve, in words that continue a sentence."""

    measured: str
    plain: str

    def decision(self, losses: str) -> Decision:
        reason, plain = f"Not published: {self.measured} {losses}", f"Not published: {self.plain}"
        return Decision(publish=False, reason=reason, plain=plain)


def _not_finite(trial: Trial) -> _Refusal | None:
    if trial.is_finite:
        return None
    return _Refusal("a loss is not a number, so the training went wrong.", "the training went wrong.")


def _unsure(better_in: float, confidence: float) -> _Refusal | None:
    if better_in >= confidence:
        return None
    return _Refusal(
        f"the new model is better on new captions in only {better_in:.0%} of random samples "
        f"({confidence:.0%} are needed).",
        "the new version does not clearly fit recent captions better.",
    )


def _irrelevant(trial: Trial) -> _Refusal | None:
    """Refuse new captions that do not describe their own images, unless one of the two versions sees that they do.

    A served version whose own captions do not tell these images apart cannot judge other captions.
    """
    people, own = trial.relevance, trial.own
    if people is None or own is None or own.won < WON_ENOUGH:
        return None
    is_relevant = people.is_sure if people.captions >= FEWEST else people.won >= WON_ENOUGH
    if is_relevant or trial.shows_sense:
        return None
    return _Refusal(
        f"new captions must describe their own images. They fit their own image better than another one in only "
        f"{people.won:.0%} of comparisons ({people.captions} captions; 50% is chance, and {own.won:.0%} is what the "
        f"served model's own captions reach), so we assume a mistake. A deliberate change is accepted once enough "
        f"captions show it.",
        "the new captions do not clearly describe their own images, so we assume a mistake. If the change is wanted, "
        "it is accepted once enough captions show it.",
    )


def _forgetful(trial: Trial, tolerance: float) -> _Refusal | None:
    if trial.is_another_language and trial.shows_sense:
        return None  # annotators who change the language give up the one before
    for name, sample in (("captions of the bundle", trial.anchors), ("older captions", trial.old)):
        if sample and sample.share_of_draws(-tolerance) < 0.5:
            return _Refusal(
                f"the new model got worse on {name} (limit {tolerance:.2f} nats per word).",
                f"it got worse on {name}.",
            )
    return None


def _unclean(trial: Trial) -> _Refusal | None:
    writing = trial.writing
    if writing is None or writing.is_clean:
        return None
    faulty, before = writing.faulty
    example = writing.spoiled[0]
    words = (
        f"writes faulty captions for {faulty} of {len(writing.candidate)} images, the served model for "
        f'{before}. It writes "{example.caption}" ({", ".join(example.faults)}).'
    )
    return _Refusal(f"the new model {words}", f"it {words}")


def _losses(trial: Trial) -> str:
    samples = {"new captions": trial.new, "older captions": trial.old, "captions of the bundle": trial.anchors}
    losses = ", ".join(f"{name} {sample}" for name, sample in samples.items() if sample)
    if not losses:
        return "No caption was held out to measure on."
    return f"Loss in nats per word, new model against served model: {losses}."


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
