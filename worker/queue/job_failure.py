"""Which items make a job fail, found by halves.

Of n items k that fail are found by at most 2 k log2(n) + 1 trials of a part of the job. What fails for want of memory
or time, or because a neighbour is away, is no matter of items, and nothing is looked for.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from redis.exceptions import RedisError
from rq.timeouts import BaseTimeoutException

from model.errors import CaptionerError, TrainingError

Item = TypeVar("Item")


def may_come_from_items(problem: Exception) -> bool:
    """Tell whether a failure can be that of certain items: no neighbour's, and not for want of memory or time."""
    if isinstance(problem, TrainingError):
        return True
    no_items = (CaptionerError, RedisError, OSError, MemoryError, BaseTimeoutException, torch.OutOfMemoryError)
    # Out of memory on a CPU is a RuntimeError of the allocator.
    return not isinstance(problem, no_items) and "allocate memory" not in str(problem)


def find_culprits(
    items: Sequence[Item], problem_with: Callable[[Sequence[Item]], str | None]
) -> list[tuple[Item, str]]:
    """Return each item that fails by itself, and how.

    Args:
        items: some of them fail.
        problem_with: tries some of them, in any number; None when they do not fail. When none of them fails too, it is
            not for the items, and nothing is returned.
    """
    return [] if problem_with([]) is not None else _among(items, problem_with)


def _among(items: Sequence[Item], problem_with: Callable[[Sequence[Item]], str | None]) -> list[tuple[Item, str]]:
    problem = problem_with(items)
    if problem is None:
        return []
    if len(items) == 1:
        return [(items[0], problem)]
    middle = len(items) // 2
    return [*_among(items[:middle], problem_with), *_among(items[middle:], problem_with)]
