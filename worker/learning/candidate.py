"""A candidate: a decoder trained from the served version, and how the two compare."""

import math
from dataclasses import dataclass
from typing import Any

from model.captioner import Captioner
from model.training.losses import word_losses
from model.training.training_record import TrainingRecord
from worker.learning.dataset import Dataset, find_project_edits, find_served_edits
from worker.learning.fine_tuning import fine_tune
from worker.learning.gate import Decision, Sample, Trial, decide
from worker.learning.relevance import COMPARED, measure_relevance, written_by
from worker.learning.samples import side_by_side
from worker.queue.job_progress import Progress
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained decoder, the corrections it was trained on, and everything that was measured."""

    captioner: Captioner
    dataset: Dataset
    training: TrainingRecord
    trial: Trial
    new_words: tuple[str, ...]
    """Words that the candidate can write and the served version cannot."""
    samples: tuple[dict[str, Any], ...]
    """Captions of both versions for some held-out images, for a person to compare."""

    def decide(self, settings: Settings) -> Decision:
        """Decide whether the candidate may serve, as strictly as the settings say."""
        confidence, tolerance = settings.gate_confidence / 100, math.log1p(settings.gate_tolerance / 100)
        return decide(self.trial, confidence=confidence, tolerance=tolerance)


def train_candidate(
    serving: Captioner, bundle: Captioner, dataset: Dataset, budget_s: int, seed: int, progress: Progress
) -> Candidate:
    """Train a candidate from the served version and measure both.

    Args:
        serving: the served version.
        bundle: the captioner that all versions of the project began with.
        dataset: the project's corrections; some of them are to be learned.
        budget_s: seconds that the fitting may take.
        seed: of the order of training.
        progress: gets the phases and steps.
    """
    dataset = dataset.rewritten(find_project_edits(dataset, bundle), find_served_edits(dataset, serving, bundle))
    captioner, training = fine_tune(serving, dataset, budget_s, seed, progress)
    progress.phase("evaluating")
    return Candidate(
        captioner=captioner,
        dataset=dataset,
        training=training,
        trial=measure(captioner, serving, dataset),
        new_words=captioner.tokenizer.words[len(serving.tokenizer.words) :],
        samples=side_by_side(serving, captioner, dataset.held_out),
    )


def measure(captioner: Captioner, serving: Captioner, dataset: Dataset) -> Trial:
    """Measure both versions on captions that neither was trained on, and the relevance of the new captions."""
    new = [corrected.example for corrected in dataset.held_out if corrected.is_new]
    old = [corrected.example for corrected in dataset.held_out if not corrected.is_new]
    written = [corrected.example for corrected in (*dataset.learned, *dataset.held_out) if corrected.is_new][-COMPARED:]
    return Trial(
        new=Sample(candidate=word_losses(captioner, new), serving=word_losses(serving, new)),
        old=Sample(candidate=word_losses(captioner, old), serving=word_losses(serving, old)),
        anchors=Sample(candidate=anchor_losses(captioner, dataset), serving=anchor_losses(serving, dataset)),
        relevance=measure_relevance(serving, written),
        own=measure_relevance(serving, written_by(serving, written)),
        learned=measure_relevance(captioner, new),
        is_another_language=dataset.is_another_language,
    )


def anchor_losses(captioner: Captioner, dataset: Dataset) -> tuple[float, ...]:
    """Return the loss of each anchor, in the bundle's words or in the project's: the version may use either."""
    plain, rewritten = (word_losses(captioner, anchors) for anchors in (dataset.anchors, dataset.rewritten_anchors))
    return tuple(map(min, plain, rewritten)) if rewritten else plain
