"""The search for corrections that make a training fail.

The cause is in its features (a wrong shape, or values that are not numbers), or in its caption, which breaks the
tokenizer, the search for edits or the loss. A trial does what a training does, but makes only one forward and backward
pass, so it is much cheaper.

The search halves its items: k bad ones among n are found by at most 2 k log2(n) + 1 trials.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from model.captioned_features import CaptionedFeatures
from model.torch_captioner import TorchCaptioner
from worker.learning.dataset import CorrectedImage, Dataset, find_project_edits
from worker.learning.fine_tuning import gradients_are_finite
from worker.learning.holdout import signatures
from worker.queue.job_failure import may_come_from_items

Item = TypeVar("Item")

NO_NUMBERS = "the features of its image contain values that are not numbers"
NO_LOSS = "its loss is not a number"
SOUND = 2
"""Captions of the bundle in each trial: a trial that fails with these has a bad correction."""


def find_bad_corrections(
    corrected: Sequence[CorrectedImage],
    serving: TorchCaptioner,
    bundle: TorchCaptioner,
    replay: Sequence[CaptionedFeatures],
) -> list[tuple[CorrectedImage, str]]:
    """Return each correction that makes a training fail, and the failure; none if it fails without corrections too.

    Args:
        corrected: the corrections that a training would use.
        serving: the version to be trained.
        bundle: the captioner that all versions of the project began with.
        replay: captions of the bundle.

    Raises:
        Exception: a failure that cannot come from corrections.
    """
    return find_bad_items(corrected, partial(problem_with_training, serving=serving, bundle=bundle, replay=replay))


def problem_with_training(
    corrected: Sequence[CorrectedImage],
    *,
    serving: TorchCaptioner,
    bundle: TorchCaptioner,
    replay: Sequence[CaptionedFeatures],
) -> str | None:
    """Do with some corrections what a training does, up to one forward and backward pass; None if that works."""
    sound = tuple(replay[:SOUND])
    if not corrected and not sound:
        return None
    if not all(correction.example.features.isfinite().all() for correction in corrected):
        return NO_NUMBERS
    try:
        signatures([example.features for example in (*sound, *(correction.example for correction in corrected))])
        dataset = Dataset(learned=tuple(corrected), held_out=(), replay=sound, anchors=(), left_out={})
        is_finite = gradients_are_finite(serving, dataset.rewritten(find_project_edits(dataset, bundle)))
    except Exception as problem:
        if not may_come_from_items(problem):
            raise
        first_line, _, _ = str(problem).partition("\n")
        return f"{type(problem).__name__}: {first_line}"
    return None if is_finite else NO_LOSS


def find_bad_items(
    items: Sequence[Item], problem_with: Callable[[Sequence[Item]], str | None]
) -> list[tuple[Item, str]]:
    """Return each item that fails by itself, and the failure.

    Args:
        items: some of them fail.
        problem_with: tries any number of items; None if they do not fail. If it fails without any item, the failure
            does not come from items, and nothing is returned.
    """
    return [] if problem_with([]) is not None else _search(items, problem_with)


def _search(items: Sequence[Item], problem_with: Callable[[Sequence[Item]], str | None]) -> list[tuple[Item, str]]:
    problem = problem_with(items)
    if problem is None:
        return []
    if len(items) == 1:
        return [(items[0], problem)]
    middle = len(items) // 2
    return [*_search(items[:middle], problem_with), *_search(items[middle:], problem_with)]
