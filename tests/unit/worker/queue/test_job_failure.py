import math
from collections.abc import Sequence

import pytest
import torch
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.timeouts import JobTimeoutException

from model.errors import StoreError, TrainingError
from worker.queue.job_failure import find_culprits, may_come_from_items


class Trials:
    """Fails whenever one of the bad items is tried, and counts."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.count = 0

    def __call__(self, items: Sequence[int]) -> str | None:
        self.count += 1
        found = sorted(self.bad.intersection(items))
        return f"it was {found[0]}" if found else None


@pytest.mark.parametrize("bad", [{0}, {999}, {17, 18}, {3, 400, 401, 998}])
def test_the_items_that_fail_are_found_in_few_trials_each_with_its_reason(bad: set[int]) -> None:
    trials = Trials(bad)

    found = find_culprits(range(1000), trials)

    assert found == [(number, f"it was {number}") for number in sorted(bad)]
    assert trials.count <= 2 * len(bad) * math.ceil(math.log2(1000)) + 2


def test_when_nothing_fails_nothing_is_found() -> None:
    assert find_culprits(range(10), Trials(set())) == []
    assert find_culprits([], Trials(set())) == []


def test_what_fails_without_any_item_is_blamed_on_none() -> None:
    assert find_culprits(range(10), lambda _: "it always fails") == []


def test_what_fails_only_for_many_items_together_is_blamed_on_none() -> None:
    assert find_culprits(range(10), lambda items: "too many" if len(items) > 3 else None) == []


@pytest.mark.parametrize(
    "problem", [ValueError("odd"), RuntimeError("stack expects equal sizes"), TrainingError("the loss is no number")]
)
def test_what_can_be_a_matter_of_items(problem: Exception) -> None:
    assert may_come_from_items(problem)


@pytest.mark.parametrize(
    "problem",
    [
        StoreError("away"),
        RedisConnectionError("away"),
        OSError("disk full"),
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        JobTimeoutException("225 seconds"),
    ],
)
def test_want_of_memory_or_time_or_a_neighbour_is_no_matter_of_items(problem: Exception) -> None:
    assert not may_come_from_items(problem)
