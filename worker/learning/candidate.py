"""A candidate: a decoder trained from the served version, and how the two compare.

A training may go too far: its direction is right, but the whole way makes other captions worse. So the gate also judges
candidates that go a part of the way, and the first one that passes is published.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.torch_captioner import TorchCaptioner
from model.training.losses import word_losses
from model.training.training_record import TrainingRecord
from worker.learning.dataset import Dataset, find_project_edits, find_served_edits
from worker.learning.fine_tuning import fine_tune, part_way
from worker.learning.gate import Decision, Sample, Trial, decide
from worker.learning.relevance import COMPARED, measure_relevance, written_by
from worker.learning.samples import side_by_side
from worker.learning.writing import Writer
from worker.queue.job_progress import Progress
from worker.settings import Settings

ALPHAS = (1.0, 0.6, 0.3)
"""Parts of the way from the served version to the trained one, in the order in which they are tried."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A captioner on the way from the served version to the trained one, and what the gate says of it."""

    captioner: TorchCaptioner
    alpha: float
    """The part of the way, above 0; 1 is the trained version."""
    trial: Trial
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Candidate(Judged):
    """A trained decoder, the corrections it was trained on, and everything that was measured."""

    dataset: Dataset
    training: TrainingRecord
    new_words: tuple[str, ...]
    """Words that the candidate can write and the served version cannot."""
    samples: tuple[dict[str, Any], ...]
    """Captions of both versions for some held-out images, for a person to compare."""


def train_candidate(
    serving: TorchCaptioner, bundle: TorchCaptioner, dataset: Dataset, settings: Settings, seed: int, progress: Progress
) -> Candidate:
    """Train from the served version, and return the candidate that the gate publishes or refuses.

    Args:
        serving: the served version.
        bundle: the captioner that all versions of the project began with.
        dataset: the project's corrections; some of them are to be learned.
        settings: the seconds that the fitting may take, and how strict the gate is.
        seed: of the order of training.
        progress: gets the phases and steps.
    """
    dataset = dataset.rewritten(find_project_edits(dataset, bundle), find_served_edits(dataset, serving, bundle))
    trained, training = fine_tune(serving, dataset, settings.retrain_budget_s, seed, progress)
    progress.phase("evaluating")
    examiner = Examiner(serving, dataset)
    ways = (_judge(examiner, part_way(serving, trained, dataset, seed, alpha), alpha, settings) for alpha in ALPHAS)
    chosen = choose(ways)
    return Candidate(
        **vars(chosen),
        dataset=dataset,
        training=training,
        new_words=trained.tokenizer.words[len(serving.tokenizer.words) :],
        samples=side_by_side(serving, chosen.captioner, dataset.held_out),
    )


def choose(ways: Iterable[Judged]) -> Judged:
    """Return the first that may be published; if there is none, the first that was tried.

    If the corrections are refused, no other is tried: they are the same for all. Without a new caption to measure on,
    no other is tried either: nothing would show that a part of the way is worth going.

    Args:
        ways: is read only as far as needed.
    """
    first = None
    for judged in ways:
        first = first or judged
        if judged.decision.publish and judged is not first:
            return replace(judged, decision=_with_part(judged, first.decision))
        if judged.decision.publish or judged.decision.is_about_corrections or not judged.trial.new:
            break
    if first is None:
        raise ValueError("there is no candidate to choose from")
    return first


class Examiner:
    """Measures candidates beside the served version, on captions that neither was trained on."""

    def __init__(self, serving: TorchCaptioner, dataset: Dataset) -> None:
        self._dataset = dataset
        self._new = [corrected.example for corrected in dataset.held_out if corrected.is_new]
        self._old = [corrected.example for corrected in dataset.held_out if not corrected.is_new]
        self._losses = [*self._losses_of(serving)]
        both = (*dataset.learned, *dataset.held_out)
        written = [corrected.example for corrected in both if corrected.is_new][-COMPARED:]
        self._relevance = measure_relevance(serving, written)
        self._own = measure_relevance(serving, written_by(serving, written))
        self._writer = Writer(serving, dataset)

    def examine(self, captioner: TorchCaptioner) -> Trial:
        """Return the measurements of a candidate."""
        pairs = zip(self._losses_of(captioner), self._losses, strict=True)
        new, old, anchors = (Sample(candidate=candidate, serving=serving) for candidate, serving in pairs)
        return Trial(
            new=new,
            old=old,
            anchors=anchors,
            relevance=self._relevance,
            own=self._own,
            learned=measure_relevance(captioner, self._new),
            writing=self._writer.compare(captioner),
            is_another_language=self._dataset.is_another_language,
        )

    def _losses_of(self, captioner: TorchCaptioner) -> Iterator[tuple[float, ...]]:
        yield word_losses(captioner, self._new)
        yield word_losses(captioner, self._old)
        yield anchor_losses(captioner, self._dataset)


def _judge(examiner: Examiner, captioner: TorchCaptioner, alpha: float, settings: Settings) -> Judged:
    """Let the gate judge a captioner, as strictly as the settings say.

    Who tries more often passes more often by luck, so each further try needs more certainty (Bonferroni).
    """
    tries = ALPHAS.index(alpha) + 1
    confidence, tolerance = 1 - (1 - settings.gate_confidence / 100) / tries, math.log1p(settings.gate_tolerance / 100)
    trial = examiner.examine(captioner)
    decision = decide(trial, confidence=confidence, tolerance=tolerance)
    return Judged(captioner=captioner, alpha=alpha, trial=trial, decision=decision)


def _with_part(judged: Judged, refusal: Decision) -> Decision:
    """Say in the decision how far the version goes, and why not further."""
    whole = refusal.reason.removeprefix("Not published: ")
    way = f"This version uses {judged.alpha:.0%} of the change that the training made."
    return replace(
        judged.decision,
        reason=f"{judged.decision.reason} {way} The full change was refused: {whole}",
        plain=f"{judged.decision.plain} {way} The full change was {refusal.plain[:1].lower()}{refusal.plain[1:]}",
    )


def anchor_losses(captioner: TorchCaptioner, dataset: Dataset) -> tuple[float, ...]:
    """Return the loss of each anchor, in the bundle's words or in the project's: the version may use either."""
    plain, rewritten = (word_losses(captioner, anchors) for anchors in (dataset.anchors, dataset.rewritten_anchors))
    return tuple(map(min, plain, rewritten)) if rewritten else plain
