"""Workers that are killed, paused or cut off while they have a job; real ones, on a real Redis."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from rq import Worker
from rq.job import Dependency, JobStatus
from rq.serializers import JSONSerializer

from backend.wsgi import begin_beside_requests
from tests.backend_client import BackendClient
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Hold, Workplace
from worker.queue.heartbeats import LOST_AFTER_S, Watch, heartbeat_ages_s, living_workers
from worker.queue.job_metrics import JobCounts
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, queue
from worker.queue.lost_jobs import find_orphaned_jobs, put_back_orphaned_jobs, running, take_back, take_back_lost_jobs
from worker.queue.retraining import enqueue_retraining

StartWorker = Callable[..., WorkerProcess]
MakeWorkplace = Callable[[str], Workplace]

NOTICED_WITHIN_S = 15


def enqueue_held(workplace: Workplace, hold: Hold) -> str:
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call(
        "tests.integration.held_jobs.held", args=[hold.port], timeout=DEADLINE_S, failure_ttl=DEADLINE_S
    )
    return str(job.id)


def look_on(workplace: Workplace, seconds: float) -> None:
    """Look for lost workers this long, as a backend does."""
    watch, until = Watch(), time.monotonic() + seconds
    while time.monotonic() < until:
        take_back_lost_jobs(workplace.redis, watch)
        threading.Event().wait(watch.LOOK_EVERY_S)


def test_the_job_of_a_killed_worker_is_done_by_another_worker(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()
    other = start_worker(workplace.environment())

    worker.kill()
    hold.wait_until_running()
    hold.release()

    assert workplace.result(job_id).return_value == "released"
    assert f"job={job_id} outcome='queued again'" in other.log.read_text()


def test_when_the_only_worker_is_gone_the_backend_notices_within_15_s(
    own_redis: RedisServer,
    make_workplace: MakeWorkplace,
    make_backend: Callable[..., BackendClient],
    start_worker: StartWorker,
    hold: Hold,
) -> None:
    workplace = make_workplace(own_redis.url)
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()
    begin_beside_requests(make_backend(redis_url=own_redis.url).services)

    worker.kill()

    taken = workplace.redis.blpop([queue(workplace.redis, RETRAIN_QUEUE).key], timeout=NOTICED_WITHIN_S)
    assert taken is not None
    assert taken[1] == job_id.encode()
    assert living_workers(workplace.redis) == set()


def test_a_job_that_loses_its_worker_twice_fails_with_the_reason_and_the_next_job_goes_on(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    job_id = enqueue_held(workplace, hold)
    following = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call(
        "tests.integration.held_jobs.held", args=[hold.port], depends_on=Dependency([job_id], allow_failure=True)
    )
    for _ in range(2):
        worker = start_worker(workplace.environment())
        hold.wait_until_running()
        [run] = running(workplace.redis)
        worker.kill()
        take_back(workplace.redis, run)

    result = workplace.result(job_id)

    assert (result.type.name, result.exc_string) == ("FAILED", f"its worker was lost twice: {run.worker}")
    assert workplace.job(job_id).get_status() == JobStatus.FAILED
    assert queue(workplace.redis, RETRAIN_QUEUE).failed_job_registry.get_job_ids() == [job_id]
    assert queue(workplace.redis, RETRAIN_QUEUE).job_ids == [following.id]
    assert running(workplace.redis) == []
    counted = JobCounts(workplace.redis).read().jobs
    assert {outcome: sum(times.buckets) for (_, outcome), times in counted.items()} == {"lost": 1, "failed": 1}


def test_a_worker_that_is_paused_for_5_s_keeps_its_job(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()
    [run] = running(workplace.redis)
    start_worker(workplace.environment())

    family = worker.family()
    for process in family:
        process.suspend()
    look_on(workplace, seconds=5)
    for process in family:
        process.resume()

    look_on(workplace, seconds=2)
    assert running(workplace.redis) == [run]
    hold.release()
    assert workplace.result(job_id).return_value == "released"


def test_a_redis_that_was_away_for_long_takes_no_job_from_its_worker(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker, hold: Hold
) -> None:
    workplace = make_workplace(own_redis.url)
    workplace.redis = own_redis.client()
    start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()
    [run] = running(workplace.redis)
    start_worker(workplace.environment())

    own_redis.kill()
    threading.Event().wait(LOST_AFTER_S + 2)
    own_redis.start()

    look_on(workplace, seconds=5)
    assert running(workplace.redis) == [run]
    hold.release()
    assert workplace.result(job_id).return_value == "released"


def test_a_worker_that_comes_back_drops_the_job_that_another_has_taken_over(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    sleeper = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()
    [run] = running(workplace.redis)
    family = sleeper.family()
    for process in family:
        process.suspend()
    start_worker(workplace.environment())
    hold.wait_until_running()

    for process in family:
        with suppress(psutil.NoSuchProcess):  # the worker, which is first, may have ended the job's process already
            process.resume()

    hold.wait_until_gone(job=0)
    hold.release()
    assert workplace.result(job_id).return_value == "released"
    assert workplace.job(job_id).get_status() == JobStatus.FINISHED
    assert sleeper.is_alive
    assert run.worker in living_workers(workplace.redis)


def test_a_job_that_a_frozen_worker_swallows_is_done_by_another_worker(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    workplace.correct(range(1, 9))
    frozen = start_worker(workplace.environment())
    workplace.wait_until(lambda: workplace.redis.info("clients")["blocked_clients"])
    for process in frozen.family():
        process.suspend()
    retraining = enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")
    assert queue(workplace.redis, LABEL_STUDIO_QUEUE).count == 0  # the pull before it went to the frozen one

    other = start_worker(workplace.environment())

    outcome = workplace.result(retraining).return_value
    assert outcome is not None
    assert outcome["published"]
    assert "job put back queue=label-studio job=collect-1-" in other.log.read_text()


def test_a_job_that_is_just_being_taken_is_not_put_back(workplace: Workplace) -> None:
    workplace.correct(range(1, 9))
    enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")
    label_studio = queue(workplace.redis, LABEL_STUDIO_QUEUE)
    assert find_orphaned_jobs(workplace.redis) == {}
    [pull] = label_studio.job_ids
    workplace.redis.delete(label_studio.key)
    watch = Watch()

    put_back_orphaned_jobs(workplace.redis, watch)
    put_back_orphaned_jobs(workplace.redis, watch)

    assert find_orphaned_jobs(workplace.redis) == {pull: label_studio}
    assert label_studio.job_ids == []


def test_a_jobs_process_ends_with_its_worker(workplace: Workplace, start_worker: StartWorker, hold: Hold) -> None:
    worker = start_worker(workplace.environment())
    enqueue_held(workplace, hold)
    hold.wait_until_running()

    os.kill(worker.pid, signal.SIGKILL)

    hold.wait_until_gone(job=0)


def test_a_worker_is_known_by_its_beat_until_it_signs_off(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    enqueue_held(workplace, hold)
    hold.wait_until_running()

    [rq_worker] = Worker.all(workplace.redis, serializer=JSONSerializer)
    assert living_workers(workplace.redis) == {rq_worker.name}
    hold.release()
    worker.stop()
    assert heartbeat_ages_s(workplace.redis) == {}
