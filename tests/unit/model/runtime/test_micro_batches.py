"""Requests share the batches of a network, and none of them suffers from another."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from model.runtime.micro_batches import MicroBatches

WAIT_S = 30


class Doubling:
    """Doubles numbers but 13; a batch waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.has_begun = threading.Event()

    def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.has_begun.set()
        assert self.may_go_on.wait(WAIT_S)
        if 13 in batch:
            raise ValueError("13 cannot be doubled")
        return [2 * number for number in batch]


@contextmanager
def busy(batches: MicroBatches) -> Iterator[None]:
    """Keep the only thread busy until the block ends."""
    first = Doubling()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(batches.run, "first", first, [0], 1)
        assert first.has_begun.wait(WAIT_S)
        yield
        first.may_go_on.set()
        assert running.result(WAIT_S) == [0]


def ask(
    threads: ThreadPoolExecutor,
    batches: MicroBatches,
    work: Doubling,
    numbers: list[int],
    kind: str = "x",
    most: int = 4,
) -> "Future[list[int]]":
    """Ask in another thread, and return when the numbers wait for their turn."""
    before = batches.waiting
    answer = threads.submit(batches.run, kind, work, numbers, most)
    while batches.waiting == before and not answer.done():
        threading.Event().wait(0.001)
    return answer


def test_results_come_in_order_whatever_the_batches() -> None:
    work = Doubling()
    work.may_go_on.set()

    assert MicroBatches(2).run("x", work, list(range(10)), 4) == [2 * number for number in range(10)]
    assert sorted(map(len, work.batches)) == [2, 4, 4]


def test_requests_that_wait_at_the_same_time_are_computed_together() -> None:
    batches, work = MicroBatches(1), Doubling()
    work.may_go_on.set()

    with ThreadPoolExecutor(3) as threads:
        with busy(batches):
            answers = [ask(threads, batches, work, [number]) for number in (1, 2, 3)]
        assert [answer.result(WAIT_S) for answer in answers] == [[2], [4], [6]]

    assert work.batches == [[1, 2, 3]]


def test_work_of_another_kind_is_computed_by_itself() -> None:
    batches, work = MicroBatches(1), Doubling()
    work.may_go_on.set()

    with ThreadPoolExecutor(2) as threads:
        with busy(batches):
            answers = [ask(threads, batches, work, [number], kind) for number, kind in ((1, "x"), (2, "y"))]
        assert [answer.result(WAIT_S) for answer in answers] == [[2], [4]]

    assert sorted(work.batches) == [[1], [2]]


def test_kinds_may_have_batches_of_different_size() -> None:
    batches, work = MicroBatches(1), Doubling()
    work.may_go_on.set()

    with ThreadPoolExecutor(2) as threads:
        with busy(batches):
            large = ask(threads, batches, work, list(range(1, 9)), "large", most=8)
            small = ask(threads, batches, work, [20], "small", most=1)
        assert small.result(WAIT_S) == [40]
        assert large.result(WAIT_S) == [2 * number for number in range(1, 9)]

    assert work.batches == [[20], list(range(1, 9))]


def test_a_page_does_not_wait_for_a_call_with_many_images() -> None:
    batches, work = MicroBatches(1), Doubling()
    work.may_go_on.set()

    with ThreadPoolExecutor(2) as threads:
        with busy(batches):
            many = ask(threads, batches, work, list(range(100, 120)), "many")
            page = ask(threads, batches, work, [1], "page")
        assert page.result(WAIT_S) == [2]
        assert many.result(WAIT_S) == [2 * number for number in range(100, 120)]

    assert work.batches[0] == [1]


def test_an_item_that_fails_harms_no_other_request() -> None:
    batches, work = MicroBatches(1), Doubling()
    work.may_go_on.set()

    with ThreadPoolExecutor(2) as threads:
        with busy(batches):
            good, bad = ask(threads, batches, work, [1]), ask(threads, batches, work, [13])
        assert good.result(WAIT_S) == [2]
        with pytest.raises(ValueError, match="13 cannot be doubled"):
            bad.result(WAIT_S)

    assert work.batches[0] == [1, 13]
