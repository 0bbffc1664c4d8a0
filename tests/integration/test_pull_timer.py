"""The regular pull of every project and the pull at a backend's start: only one waits, and a lost one comes back."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from backend.wsgi import pull_missed
from tests.backend_client import BackendClient
from tests.factories import changed_settings
from tests.worker_process import WorkerProcess
from tests.workplace import Workplace
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue
from worker.queue.periodic_pull import NEXT_PULL_KEY, schedule_pull
from worker.queue.rq_worker import CaptionWorker
from worker.settings import Settings

StartWorker = Callable[..., WorkerProcess]
KEY = "0" * 40


@pytest.fixture
def settings(workplace: Workplace) -> Settings:
    return changed_settings(workplace.settings, label_studio_api_key=KEY)


def scheduled(redis: Redis) -> list[str]:
    return list(queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_job_ids())


def due_in_s(redis: Redis) -> float:
    """Seconds until the one scheduled pull."""
    [job_id] = scheduled(redis)
    due = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_scheduled_time(job_id)
    return float(due.timestamp() - time.time())


def next_pull(redis: Redis) -> str:
    job_id = redis.get(NEXT_PULL_KEY)
    assert isinstance(job_id, bytes)
    return job_id.decode()


def test_many_starters_at_once_schedule_one_pull(redis: Redis, settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: schedule_pull(redis, settings), range(40)))

    assert 290 < due_in_s(redis) <= 300


def test_a_backend_that_starts_brings_the_next_pull_forward_and_a_worker_never_puts_it_off(
    redis: Redis, settings: Settings, make_backend: Callable[..., BackendClient]
) -> None:
    backend = make_backend(label_studio_api_key=KEY)
    schedule_pull(redis, settings)

    pull_missed(backend.services)
    schedule_pull(redis, settings)

    assert due_in_s(redis) <= 0


def test_a_backend_that_starts_asks_for_a_pull_even_where_the_timer_is_off(
    redis: Redis, make_backend: Callable[..., BackendClient]
) -> None:
    backend = make_backend(label_studio_api_key=KEY, reconcile_every_s=0)

    schedule_pull(redis, backend.settings)
    assert scheduled(redis) == []
    pull_missed(backend.services)

    assert len(scheduled(redis)) == 1


def test_a_backend_without_an_api_key_says_that_nothing_is_pulled(
    redis: Redis, make_backend: Callable[..., BackendClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    pull_missed(make_backend().services)

    assert "LABEL_STUDIO_API_KEY is not set" in caplog.text
    assert scheduled(redis) == []


def test_a_backend_starts_without_redis(
    make_backend: Callable[..., BackendClient], caplog: pytest.LogCaptureFixture
) -> None:
    pull_missed(make_backend(label_studio_api_key=KEY, redis_url="redis://127.0.0.1:1/0").services)

    assert "pull not scheduled" in caplog.text


@pytest.mark.parametrize("loss", ["everything", "the job", "its time"])
def test_a_worker_puts_a_lost_pull_back(redis: Redis, settings: Settings, loss: str) -> None:
    home = queue(redis, LABEL_STUDIO_QUEUE)
    worker = CaptionWorker.listening(settings, [home], redis, "worker-1")
    worker.run_maintenance_tasks()
    lost = next_pull(redis)
    match loss:
        case "everything":
            redis.flushall()
        case "the job":
            redis.delete(f"rq:job:{lost}")
        case "its time":
            redis.delete(home.scheduled_job_registry.key)

    worker.run_maintenance_tasks()

    assert next_pull(redis) in scheduled(redis)
    assert next_pull(redis) != lost


def test_with_two_workers_one_pull_follows_the_other_even_when_each_fails(
    workplace: Workplace, settings: Settings, start_worker: StartWorker
) -> None:
    for _ in range(2):
        start_worker(workplace.environment(LABEL_STUDIO_API_KEY=KEY, RECONCILE_EVERY_S="1"))
    schedule_pull(workplace.redis, settings, delay_s=0)
    pulls = []

    for _ in range(3):
        pulls.append(next_pull(workplace.redis))
        assert "cannot be reached" in str(workplace.result(pulls[-1]).exc_string)

    assert len(set(pulls)) == 3
    assert len(scheduled(workplace.redis)) <= 1


def test_a_pull_that_runs_is_not_the_one_that_comes_after_this_moment(redis: Redis, settings: Settings) -> None:
    home = queue(redis, LABEL_STUDIO_QUEUE)
    schedule_pull(redis, settings, delay_s=0)
    started = next_pull(redis)
    redis.delete(home.scheduled_job_registry.key)
    redis.hset(f"rq:job:{started}", "status", "started")
    redis.zadd(home.started_job_registry.key, {f"{started}:execution": time.time() + 600})

    schedule_pull(redis, settings, delay_s=0)

    assert scheduled(redis) == [next_pull(redis)]
    assert next_pull(redis) != started
