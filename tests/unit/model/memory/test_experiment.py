"""What annotators keep of captions of the memory, and of the decoder on images that chance left to it."""

import random
from typing import Any

import numpy as np
import pytest

from model.memory.experiment import ENOUGH_SHOWN, Experiment, compare, find_experiment
from model.memory.index import Nearest, Row

LIMIT = 0.5
LEFT = "left"
"""Begins the key of an image that chance leaves to the decoder."""


def row(number: int, **changes: Any) -> Row:
    """A correction of four words; none of them needed an edit."""
    values: dict[str, Any] = {
        "name": f"{number}/caption",
        "image_key": f"{LEFT} {number}",
        "task_id": number,
        "updated_at": f"2025-01-31T12:{number:04}",
        "caption": "a dog on grass",
        "was_written_unseen": False,
        "shown_by": "decoder",
        "word_edits": 0,
    }
    return Row(**values | changes)


def rows(count: int, *, memory_edits: int = 0, decoder_edits: int = 0) -> list[Row]:
    """Return corrections of captions of the memory and of the decoder in turn."""
    return [
        row(number, image_key=f"other {number}", shown_by="memory", word_edits=memory_edits)
        if number % 2 == 0
        else row(number, word_edits=decoder_edits)
        for number in range(count)
    ]


def find(corrected: list[Row], vectors: Any = None) -> Experiment | None:
    """Return the experiment among corrections whose images are all alike."""
    if vectors is None:
        vectors = np.tile(np.eye(1, 4, dtype=np.float32), (len(corrected), 1))
    nearest = Nearest(rows=corrected, vectors=vectors, cosines=np.ones(len(corrected), np.float32))
    return find_experiment(nearest, LIMIT, lambda key: key.startswith(LEFT))


def found(corrected: list[Row], vectors: Any = None) -> Experiment:
    experiment = find(corrected, vectors)
    assert experiment is not None
    return experiment


def test_annotators_who_rewrite_only_the_memory_s_captions_let_it_lose() -> None:
    assert found(rows(60, memory_edits=3)) == Experiment(
        by_memory=30, by_decoder=29, gain=-0.75, gains_in=0.0, losses_in=1.0
    )


def test_annotators_who_rewrite_only_the_decoder_s_captions_let_the_memory_win() -> None:
    experiment = found(rows(60, decoder_edits=1))

    assert (experiment.gain, experiment.gains_in) == (0.25, 1.0)
    assert (experiment.is_won, experiment.is_lost) == (True, False)


@pytest.mark.parametrize("kept", [1.0, 0.8, 0.7])
def test_captions_that_are_kept_alike_decide_nothing(kept: float) -> None:
    experiment = compare([kept] * 61, [kept] * 23)

    assert experiment is not None
    assert (experiment.gains_in, experiment.losses_in) == (0, 0)
    assert not experiment.is_won
    assert not experiment.is_lost


def test_a_difference_that_chance_explains_is_not_lost() -> None:
    shares_kept = [1.0] * 15 + [0.0] * 15

    experiment = compare([*shares_kept, 0.0], [*shares_kept, 1.0])

    assert experiment is not None
    assert 0.5 < experiment.losses_in < 0.95
    assert not experiment.is_lost


@pytest.mark.parametrize(("by_memory", "by_decoder"), [(100, 19), (19, 100), (0, 100), (100, 0), (0, 0)])
def test_a_group_that_is_too_small_has_no_effect(by_memory: int, by_decoder: int) -> None:
    assert ENOUGH_SHOWN == 20
    assert compare([0.0] * by_memory, [1.0] * by_decoder) is None


@pytest.mark.parametrize("count", [0, 1])
def test_without_corrections_there_is_no_experiment(count: int) -> None:
    assert find(rows(count)) is None


def test_the_order_of_the_corrections_does_not_matter() -> None:
    draw = random.Random(0)
    corrected = [
        row(number, shown_by="memory" if number % 2 else "decoder", word_edits=draw.randrange(4))
        for number in range(100)
    ]
    shuffled = draw.sample(corrected, len(corrected))

    assert found(shuffled) == found(corrected)
    assert 0 < found(corrected).gains_in < 1


def test_a_longer_edit_than_the_caption_keeps_nothing() -> None:
    assert found(rows(60, memory_edits=9)).gain == -1


@pytest.mark.parametrize(
    "changes",
    [
        {"shown_by": "decoder", "image_key": "other"},  # an image of another kind gets it, not one chosen by chance
        {"shown_by": "decoder", "updated_at": "2025-01-30"},  # the memory did not speak yet
        {"shown_by": "decoder", "updated_at": "2025-02-01"},  # the memory does not speak any more
        {"shown_by": None},
        {"shown_by": "memory", "word_edits": None},
    ],
)
def test_other_corrections_do_not_count(changes: dict[str, Any]) -> None:
    corrected = rows(60)
    unlike: dict[str, Any] = {"updated_at": corrected[30].updated_at, "word_edits": 4}
    others = [row(number, **unlike | changes) for number in range(100, 140)]

    assert found([*others, *corrected]) == found(corrected)


def test_images_that_are_like_no_other_do_not_count() -> None:
    corrected = rows(60)
    lonely = row(30, word_edits=4)
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (61, 1))
    vectors[60] = np.eye(4, dtype=np.float32)[1]

    assert found([*corrected, lonely], vectors) == found(corrected)
    assert found([*corrected, lonely]) != found(corrected)
