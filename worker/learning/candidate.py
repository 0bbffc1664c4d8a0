"""A candidate: a decoder trained from the serving version, and how it compares with it."""

import math
from dataclasses import dataclass
from typing import Any

from model.captioner import Captioner
from model.training.teacher_forcing import word_losses
from model.training.training_record import TrainingRecord
from worker.learning.dataset import Dataset, find_served_wording, find_wording
from worker.learning.fine_tuning import fine_tune
from worker.learning.gate import Decision, Sample, Trial, decide
from worker.learning.relevance import LOOKED_AT, measure_relevance, written_by
from worker.learning.samples import side_by_side
from worker.queue.job_progress import Progress
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A candidate, what it was made of, and what came of it."""

    candidate: Captioner
    dataset: Dataset
    training: TrainingRecord
    trial: Trial
    decision: Decision
    new_words: tuple[str, ...]
    """That the candidate knows and the serving version does not."""
    samples: tuple[dict[str, Any], ...]
    """What both versions write about some held-out images, for a person to look at."""


def attempt(
    serving: Captioner, bundle: Captioner, dataset: Dataset, settings: Settings, seed: int, progress: Progress
) -> Attempt:
    """Train a candidate from the serving version, and decide whether it may serve.

    Args:
        serving: the version that serves.
        bundle: the captioner that all versions of the project began with.
        dataset: the project's corrections; some of them are to be learned.
        settings: the time to train and how strict the gate is.
        seed: of the order of training.
        progress: told the phases and steps.
    """
    dataset = dataset.restated(find_wording(dataset, bundle), find_served_wording(dataset, serving, bundle))
    candidate, training = fine_tune(serving, dataset, settings.retrain_budget_s, seed, progress)
    progress.phase("evaluating")
    trial = try_out(candidate, serving, dataset)
    decision = decide(
        trial, confidence=settings.gate_confidence / 100, tolerance=math.log1p(settings.gate_tolerance / 100)
    )
    return Attempt(
        candidate=candidate,
        dataset=dataset,
        training=training,
        trial=trial,
        decision=decision,
        new_words=candidate.tokenizer.words[len(serving.tokenizer.words) :],
        samples=side_by_side(serving, candidate, dataset.held_out),
    )


def try_out(candidate: Captioner, serving: Captioner, dataset: Dataset) -> Trial:
    """Measure both versions on what no version was trained on, and how relevant the new captions are."""
    new = [one.example for one in dataset.held_out if one.is_new]
    old = [one.example for one in dataset.held_out if not one.is_new]
    written = [one.example for one in (*dataset.learned, *dataset.held_out) if one.is_new][-LOOKED_AT:]
    return Trial(
        new=Sample(candidate=word_losses(candidate, new), serving=word_losses(serving, new)),
        old=Sample(candidate=word_losses(candidate, old), serving=word_losses(serving, old)),
        anchors=Sample(candidate=anchor_losses(candidate, dataset), serving=anchor_losses(serving, dataset)),
        relevance=measure_relevance(serving, written),
        own=measure_relevance(serving, written_by(serving, written)),
        learned=measure_relevance(candidate, new),
        is_another_language=dataset.is_another_language,
    )


def anchor_losses(captioner: Captioner, dataset: Dataset) -> tuple[float, ...]:
    """Return the loss on each anchor, in the bundle's words or the project's, as the version is used to."""
    plain, restated = (word_losses(captioner, anchors) for anchors in (dataset.anchors, dataset.restated_anchors))
    return tuple(map(min, plain, restated)) if restated else plain
