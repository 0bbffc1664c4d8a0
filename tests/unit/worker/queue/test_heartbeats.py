import pytest

from worker.queue.heartbeats import LOST_AFTER_S, Watch, is_alive

NOTICED_WITHIN_S = 15


def lost_at(watch: Watch, beats: dict[int, float], until_s: int, *, step_s: int = 1) -> int | None:
    """Look every so often; returns the second in which worker "a" is lost.

    Args:
        beats: its beat from this second on.
        until_s: when to stop looking.
        step_s: between two looks.
    """
    beat = 0.0
    for second in range(0, until_s, step_s):
        beat = max((at for since, at in beats.items() if since <= second), default=beat)
        if watch.look({"a": beat}, {"a"}, now=1e6 + second):
            return second
    return None


def test_a_worker_that_stops_beating_is_lost_within_15_s_and_not_before_10() -> None:
    beats = {second: float(second) for second in range(21)}

    second = lost_at(Watch(), beats, 60)

    assert second is not None
    assert 20 + LOST_AFTER_S <= second <= 20 + NOTICED_WITHIN_S - 2


@pytest.mark.parametrize("paused_s", [5, 9])
def test_a_worker_that_is_paused_for_some_seconds_is_not_lost(paused_s: int) -> None:
    beats = {second: float(second) for second in range(60) if not 20 < second <= 20 + paused_s}

    assert lost_at(Watch(), beats, 60) is None


def test_a_watch_that_was_asleep_itself_takes_nobody_for_lost() -> None:
    watch = Watch()
    watch.look({"a": 1.0}, {"a"}, now=1e6)

    assert watch.look({"a": 1.0}, {"a"}, now=1e6 + 3600) == set()


def test_after_a_redis_that_was_away_workers_have_their_time_to_come_back() -> None:
    watch = Watch()
    for second in range(9):
        watch.look({"a": 1.0}, {"a"}, now=1e6 + second)

    watch.forget()

    for second in range(9, 19):
        assert watch.look({"a": 1.0}, {"a"}, now=1e6 + second) == set()
    assert watch.look({"a": 1.0}, {"a"}, now=1e6 + 19) == {"a"}


def test_a_watch_that_looks_late_still_notices_in_time() -> None:
    second = lost_at(Watch(), {0: 1.0}, 60, step_s=2)

    assert second is not None
    assert second <= NOTICED_WITHIN_S


def test_a_worker_without_any_beat_is_as_silent_as_one_whose_beat_stays() -> None:
    watch = Watch()
    for second in range(10):
        assert watch.look({}, {"a"}, now=1e6 + second) == set()

    assert watch.look({}, {"a"}, now=1e6 + 10) == {"a"}


def test_nobody_is_lost_for_whom_nobody_waits() -> None:
    watch = Watch()

    assert all(watch.look({"a": 1.0}, set(), now=1e6 + second) == set() for second in range(60))


@pytest.mark.parametrize(("age_s", "alive"), [(0.0, True), (9.9, True), (10.1, False), (None, False)])
def test_a_worker_is_alive_while_its_last_beat_is_fresh(age_s: float | None, alive: bool) -> None:
    assert is_alive(age_s) is alive
