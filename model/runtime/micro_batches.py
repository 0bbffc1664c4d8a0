"""Work of several requests, done together: a network computes a batch faster than one image after the other.

Nobody waits for a batch to fill: what arrives while all threads compute is the next batch.
"""

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    kind: Hashable
    compute: Callable[[list[Any]], Sequence[Any]]
    item: Any
    most: int
    """Items of a batch of this kind."""
    order: tuple[int, int]
    """Size of the request, then its number: a page with one image does not wait for a call with a thousand."""
    result: "Future[Any]" = field(default_factory=Future)


class MicroBatches:
    """Computes batches in as many threads as there are cores; safe to share between threads."""

    def __init__(self, threads: int | None = None) -> None:
        """Prepare; no thread runs before the first item.

        Args:
            threads: number of batches that are computed at the same time; None: one for each core.
        """
        self._threads = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="compute")
        self._waiting: list[_Waiting] = []
        self._numbers = count()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of items whose turn has not come."""
        with self._lock:
            return len(self._waiting)

    def run(
        self, kind: Hashable, compute: Callable[[list[Item]], Sequence[Result]], items: Sequence[Item], most: int
    ) -> list[Result]:
        """Return the result of each item, in order; raises what `compute` raises.

        Args:
            kind: items of the same kind may be computed together, whoever asked for them.
            compute: returns the results of items of this kind.
            items: to compute.
            most: number of items of a batch, the same for all items of a kind.
        """
        with self._lock:
            order = len(items), next(self._numbers)
            waiting = [_Waiting(kind=kind, compute=compute, item=item, most=most, order=order) for item in items]
            self._waiting += waiting
        for _ in range(0, len(items), most):
            self._threads.submit(self._compute_next)
        return [each.result.result() for each in waiting]

    def _compute_next(self) -> None:
        batch = self._take()
        if not batch:
            return  # it was computed with an earlier batch
        try:
            results = batch[0].compute([each.item for each in batch])
        except Exception as problem:  # noqa: BLE001 - the requests that wait for it get it
            self._fail(batch, problem)
            return
        for each, result in zip(batch, results, strict=True):
            each.result.set_result(result)

    def _take(self) -> list[_Waiting]:
        """Return the items whose turn it is, all of one kind."""
        with self._lock:
            if not self._waiting:
                return []
            first = min(self._waiting, key=attrgetter("order"))
            alike = [each for each in self._waiting if each.kind == first.kind]
            batch = sorted(alike, key=attrgetter("order"))[: first.most]  # sorting keeps the order within a request
            chosen = {id(each) for each in batch}
            self._waiting = [each for each in self._waiting if id(each) not in chosen]
            return batch

    @staticmethod
    def _fail(batch: Sequence[_Waiting], problem: Exception) -> None:
        """Compute the items of a batch that failed one by one, so that a bad item harms no other request."""
        if len(batch) == 1:
            batch[0].result.set_exception(problem)
            return
        for each in batch:
            try:
                [result] = each.compute([each.item])
            except Exception as own_problem:  # noqa: BLE001 - the request that waits for it gets it
                each.result.set_exception(own_problem)
            else:
                each.result.set_result(result)
