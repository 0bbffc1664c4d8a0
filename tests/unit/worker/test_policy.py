import hashlib

import pytest

from worker.policy import corrections_needed, is_accepted_less, is_held_out, is_quiet, is_withheld, should_retrain


def test_a_retraining_is_due_from_the_set_number_of_corrections_on() -> None:
    assert not should_retrain(19, 20)
    assert should_retrain(20, 20)
    assert should_retrain(21, 20)


def trainings(retrain_after: int, corrections: int, *, is_taught_by_memory: bool) -> list[int]:
    """Return the numbers of corrections at which a project trains, if it gets this many, each in turn."""
    trained_on = [0]
    for number in range(1, corrections + 1):
        if number - trained_on[-1] >= corrections_needed(retrain_after, trained_on[-1], is_taught_by_memory):
            trained_on.append(number)
    return trained_on[1:]


def test_a_project_that_its_memory_teaches_trains_with_100_corrections_and_then_with_each_growth_by_half() -> None:
    assert trainings(20, 600, is_taught_by_memory=True) == [100, 150, 225, 338, 507]
    assert trainings(20, 90, is_taught_by_memory=False) == [20, 40, 60, 80]


def test_a_project_that_its_memory_teaches_trains_sooner_if_its_owner_sets_a_smaller_number() -> None:
    assert trainings(4, 60, is_taught_by_memory=True) == [20, 30, 45]


def test_a_project_that_its_memory_teaches_never_trains_sooner_than_the_setting_says() -> None:
    assert trainings(300, 2700, is_taught_by_memory=True) == [1500, 2250]


def test_what_was_trained_before_the_memory_taught_the_project_counts() -> None:
    assert corrections_needed(20, 30, is_taught_by_memory=True) == 70
    assert corrections_needed(20, 90, is_taught_by_memory=True) == 45


def test_quiet_counts_from_the_newest_change_and_can_be_switched_off() -> None:
    assert not is_quiet(299.9, 300)
    assert is_quiet(300, 300)
    assert not is_quiet(1e9, 0)


def test_one_image_in_five_is_held_out_by_its_content_alone() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]

    share = sum(map(is_held_out, keys)) / len(keys)

    assert 0.18 < share < 0.22
    assert is_held_out("00000005" + "f" * 56)
    assert not is_held_out("00000006" + "0" * 56)


def test_suggestions_are_withheld_by_the_images_content_whether_it_is_held_out_or_not() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]
    held_out = [key for key in keys if is_held_out(key)]

    shares = [sum(is_withheld(key, 20) for key in some) / len(some) for some in (keys, held_out)]

    assert all(0.17 < share < 0.23 for share in shares)
    assert not any(is_withheld(key, 0) for key in keys)
    assert is_withheld("f" * 8 + "00000013" + "f" * 48, 20)
    assert not is_withheld("0" * 8 + "00000014" + "0" * 48, 20)


@pytest.mark.parametrize(
    ("now", "before", "margin", "is_less"),
    [
        ((10, 40), (30, 40), 0.1, True),
        ((27, 40), (30, 40), 0.1, False),
        ((0, 3), (30, 40), 0.1, False),
        ((0, 9), (30, 40), 0.1, False),
        ((0, 10), (30, 40), 0.1, True),
        ((20, 40), (30, 40), 0.0, True),
        ((20, 40), (30, 40), 0.3, False),
        ((0, 40), (1, 1), 0.1, False),
        ((0, 0), (0, 0), 0.0, False),
    ],
)
def test_suggestions_are_accepted_less_only_beyond_margin_and_chance(
    now: tuple[int, int], before: tuple[int, int], margin: float, is_less: bool
) -> None:
    assert is_accepted_less(*now, *before, margin) is is_less
