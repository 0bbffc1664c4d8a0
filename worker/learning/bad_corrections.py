"""Try a part of a training with some corrections, to see whether it fails; `worker/queue/job_failure.py` finds which.

What can come from a correction: features of a wrong shape or with a number that is none, a caption that breaks the
tokenizer, the search for edits or the loss. A trial is no training: it is one forward and backward pass, after all that
a training does with corrections before.
"""

from collections.abc import Sequence

from model.captioner import Captioner
from model.training.teacher_forcing import CaptionedFeatures
from worker.learning.dataset import CorrectedImage, Dataset, find_wording
from worker.learning.fine_tuning import gradients_are_finite
from worker.learning.holdout import signatures
from worker.queue.job_failure import may_come_from_items

NO_NUMBERS = "the features of its image are no numbers"
NO_LOSS = "its loss is no number"
SOUND = 2
"""Captions of the bundle in each trial: what fails beside them is wrong, also where many are wrong alike."""


def problem_with_training(
    corrected: Sequence[CorrectedImage], serving: Captioner, bundle: Captioner, replay: Sequence[CaptionedFeatures]
) -> str | None:
    """Do with some corrections what a training does, up to one forward and backward pass; None when that works.

    Args:
        corrected: to be tried.
        serving: what is trained.
        bundle: the captioner that all versions of the project began with.
        replay: captions of the bundle.

    Raises:
        Exception: what cannot come from corrections.
    """
    sound = tuple(replay[:SOUND])
    if not corrected and not sound:
        return None
    if not all(one.example.features.isfinite().all() for one in corrected):
        return NO_NUMBERS
    try:
        signatures([one.features for one in (*sound, *(tried.example for tried in corrected))])
        dataset = Dataset(learned=tuple(corrected), held_out=(), replay=sound, anchors=(), left_out={})
        finite = gradients_are_finite(serving, dataset.restated(find_wording(dataset, bundle)))
    except Exception as problem:
        if not may_come_from_items(problem):
            raise
        told, _, _ = str(problem).partition("\n")
        return f"{type(problem).__name__}: {told}"
    return None if finite else NO_LOSS
