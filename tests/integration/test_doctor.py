"""The doctor on a real Redis and its workers."""

from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from backend.doctor.examination import diagnose
from backend.doctor.findings import Finding
from tests.worker_process import WorkerProcess
from tests.workplace import Hold, Workplace
from worker.queue.job_state import RETRAIN_QUEUE, queue


@pytest.fixture
def unchanged(redis: Redis) -> Iterator[Redis]:
    """A Redis whose settings a test may change."""
    names = ("appendonly", "maxmemory", "maxmemory-policy")
    before = {name: redis.config_get(name)[name] for name in names}
    yield redis
    for name, value in before.items():
        redis.config_set(name, str(value))


def findings(workplace: Workplace) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(workplace.settings)}


def test_a_redis_with_an_append_only_file_is_fine_and_a_missing_worker_is_named(workplace: Workplace) -> None:
    report = findings(workplace)

    assert report["Redis"].ok
    assert report["Redis durability"].message == "every write goes to an append-only file"
    assert report["Redis eviction"].ok
    assert not report["worker"].ok
    assert report["worker"].remedy == "start `captioner worker`"


def test_a_worker_that_listens_is_counted(
    workplace: Workplace, start_worker: Callable[..., WorkerProcess], hold: Hold
) -> None:
    start_worker(workplace.environment())
    queue(workplace.redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.held", args=[hold.port])
    hold.wait_until_running()

    message = findings(workplace)["worker"].message
    hold.release()

    assert message == "1 listening"


def test_a_redis_that_loses_everything_when_it_stops_is_named(workplace: Workplace, unchanged: Redis) -> None:
    unchanged.config_set("appendonly", "no")

    finding = findings(workplace)["Redis durability"]

    assert not finding.ok
    assert finding.remedy == "start it with --appendonly yes"


def test_a_redis_that_deletes_keys_when_it_is_full_is_named(workplace: Workplace, unchanged: Redis) -> None:
    unchanged.config_set("maxmemory", "1gb")
    unchanged.config_set("maxmemory-policy", "allkeys-lru")

    finding = findings(workplace)["Redis eviction"]

    assert not finding.ok
    assert "allkeys-lru" in finding.message
