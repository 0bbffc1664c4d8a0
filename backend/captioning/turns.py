"""Turns of prediction calls: how many run at a time, who comes next, and who is sent away.

A call for one open task goes before a call for many tasks. Calls of different projects take turns, and no project may
use every place, so that one with a slow image host does not stop the others.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from model.errors import BusyError

PLACES = 8
"""Calls that run at the same time. The network computes their images together."""
OF_BATCHES = 4
"""Places that calls with many tasks may use."""
OF_PROJECT = 6
"""Places that one project may use."""
WAITING = 80
"""Calls that may wait; others are sent away."""
WAIT_S = 45.0
"""Label Studio gives up after 100 s, and a call takes some seconds after its turn has come."""
OPEN_TASKS = 4
"""A call with so few tasks is for a person who waits."""
RETRY_AFTER_S = 10


@dataclass(eq=False)
class _Call:
    project_id: int
    is_batch: bool
    number: int
    has_turn: bool = False


class Turns:
    """Lets calls run when it is their turn; safe to share between threads."""

    def __init__(
        self,
        *,
        places: int = PLACES,
        of_batches: int = OF_BATCHES,
        of_project: int = OF_PROJECT,
        waiting: int = WAITING,
    ) -> None:
        self._places, self._of_batches, self._of_project, self._most_waiting = places, of_batches, of_project, waiting
        self._changed = threading.Condition()
        self._waiting: list[_Call] = []
        self._running: list[_Call] = []
        self._numbers = count()

    @property
    def waiting(self) -> int:
        """Number of calls whose turn has not come."""
        with self._changed:
            return len(self._waiting)

    @contextmanager
    def turn(self, project_id: int, tasks: int, wait_s: float = WAIT_S) -> Iterator[None]:
        """Wait for a turn, and have it while the block runs.

        Args:
            project_id: whose call it is.
            tasks: of the call.
            wait_s: how long it may wait.

        Raises:
            BusyError: too many calls wait, or this one waited too long.
        """
        call = _Call(project_id, tasks > OPEN_TASKS, next(self._numbers))
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                raise BusyError(f"{len(self._waiting)} calls for predictions wait already", RETRY_AFTER_S)
            self._waiting.append(call)
            self._give_turns()
            give_up_at = time.monotonic() + wait_s
            while not call.has_turn:
                if not self._changed.wait(give_up_at - time.monotonic()) and not call.has_turn:
                    self._waiting.remove(call)
                    raise BusyError(f"no prediction could begin within {wait_s:g} s", RETRY_AFTER_S)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(call)
                self._give_turns()

    def _give_turns(self) -> None:
        """Let calls begin as long as there are places for them."""
        while (call := self._next()) is not None:
            call.has_turn = True
            self._waiting.remove(call)
            self._running.append(call)
            self._changed.notify_all()

    def _next(self) -> _Call | None:
        if len(self._running) >= self._places:
            return None
        by_project = Counter(call.project_id for call in self._running)
        batches = sum(call.is_batch for call in self._running)
        may_begin = [
            call
            for call in self._waiting
            if by_project[call.project_id] < self._of_project and not (call.is_batch and batches >= self._of_batches)
        ]
        return min(may_begin, key=lambda call: (call.is_batch, by_project[call.project_id], call.number), default=None)
