import math
from collections.abc import Sequence

import pytest

from worker.learning.bad_corrections import find_bad_items


class Trials:
    """Fails whenever one of the bad items is tried, and counts."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.count = 0

    def __call__(self, items: Sequence[int]) -> str | None:
        self.count += 1
        bad = sorted(self.bad.intersection(items))
        return f"it was {bad[0]}" if bad else None


@pytest.mark.parametrize("bad", [{0}, {999}, {17, 18}, {3, 400, 401, 998}])
def test_each_bad_item_is_found_in_few_trials_with_its_reason(bad: set[int]) -> None:
    trials = Trials(bad)

    bad_items = find_bad_items(range(1000), trials)

    assert bad_items == [(number, f"it was {number}") for number in sorted(bad)]
    assert trials.count <= 2 * len(bad) * math.ceil(math.log2(1000)) + 2


def test_without_a_failure_no_item_is_bad() -> None:
    assert find_bad_items(range(10), Trials(set())) == []
    assert find_bad_items([], Trials(set())) == []


def test_a_failure_without_any_item_is_blamed_on_none() -> None:
    assert find_bad_items(range(10), lambda _: "it always fails") == []


def test_a_failure_of_many_items_together_is_blamed_on_none() -> None:
    assert find_bad_items(range(10), lambda items: "too many" if len(items) > 3 else None) == []
