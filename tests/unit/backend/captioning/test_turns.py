"""Prediction calls take turns: open tasks before batches, projects one after the other, and no more than can wait."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from backend.captioning.turns import Turns
from model.errors import BusyError

ONE_TASK, BATCH = 1, 50


class Crowd:
    """Calls in threads of their own, which hold their turn until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self._changed = threading.Condition()
        self._may_end: dict[str, threading.Event] = {}
        self._threads = ThreadPoolExecutor(32)
        self._calls: dict[str, Future[None]] = {}

    def call(self, name: str, project_id: int = 1, tasks: int = ONE_TASK) -> None:
        """Let a call come, and wait until it runs or waits."""
        waiting, running = self.turns.waiting, len(self.began)
        self._may_end[name] = threading.Event()
        self._calls[name] = self._threads.submit(self._run, name, project_id, tasks)
        self._until(lambda: self.turns.waiting > waiting or len(self.began) > running)

    def end(self, name: str) -> None:
        """Let a running call end, and wait until it has."""
        self._may_end[name].set()
        self._calls[name].result(timeout=10)

    def end_all(self) -> None:
        for event in self._may_end.values():
            event.set()
        for call in self._calls.values():
            call.result(timeout=10)

    def wait_for(self, count: int) -> list[str]:
        """Wait until so many calls have begun; return their names in this order."""
        self._until(lambda: len(self.began) >= count)
        return list(self.began)

    def _run(self, name: str, project_id: int, tasks: int) -> None:
        with self.turns.turn(project_id, tasks):
            with self._changed:
                self.began.append(name)
                self._changed.notify_all()
            assert self._may_end[name].wait(timeout=30)

    def _until(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            for _ in range(1000):
                if holds():
                    return
                self._changed.wait(0.01)
        raise AssertionError("the calls did not come so far")


def test_an_open_task_goes_before_batches_that_came_earlier() -> None:
    crowd = Crowd(Turns(places=1))
    crowd.call("running")
    crowd.call("batch", tasks=BATCH)
    crowd.call("open task")

    crowd.end("running")
    order = crowd.wait_for(2)
    crowd.end("open task")
    order = crowd.wait_for(3)
    crowd.end_all()

    assert order == ["running", "open task", "batch"]


def test_projects_take_turns_however_many_calls_one_of_them_sends() -> None:
    crowd = Crowd(Turns(places=2, of_project=2))
    crowd.call("a1", project_id=1)
    crowd.call("a2", project_id=1)
    crowd.call("a3", project_id=1)
    crowd.call("b1", project_id=2)

    crowd.end("a1")
    order = crowd.wait_for(3)
    crowd.end_all()

    assert order == ["a1", "a2", "b1"]


def test_no_project_and_no_batches_can_take_every_place() -> None:
    crowd = Crowd(Turns(places=4, of_batches=2, of_project=3))
    for number in range(4):
        crowd.call(f"batch {number}", project_id=number, tasks=BATCH)
    for number in range(3):
        crowd.call(f"one project {number}", project_id=9)

    crowd.call("another", project_id=10)
    began = crowd.wait_for(4)
    waiting = crowd.turns.waiting
    crowd.end_all()

    assert began[:2] == ["batch 0", "batch 1"]
    assert began[2:4] == ["one project 0", "one project 1"]
    assert waiting == 4


def test_what_does_not_fit_is_sent_away_with_the_time_to_come_back() -> None:
    crowd = Crowd(Turns(places=1, waiting=1))
    crowd.call("running")
    crowd.call("waiting")

    with pytest.raises(BusyError, match="1 calls for predictions wait already") as refusal, crowd.turns.turn(1, 1):
        pass
    crowd.end_all()

    assert refusal.value.retry_after_s == 10


def test_a_call_that_waits_too_long_is_sent_away_and_leaves_no_trace() -> None:
    crowd = Crowd(Turns(places=1))
    crowd.call("running")

    with pytest.raises(BusyError, match="no prediction could begin"), crowd.turns.turn(1, 1, wait_s=0.01):
        pass

    assert crowd.turns.waiting == 0
    crowd.end_all()
    with crowd.turns.turn(1, 1):
        pass


def test_a_call_that_fails_gives_its_place_back() -> None:
    turns = Turns(places=1)

    with pytest.raises(ZeroDivisionError), turns.turn(1, 1):
        _ = 1 / 0

    with turns.turn(1, 1, wait_s=0.01):
        pass
