"""The worker as a process: its robustness, its refusals and its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from redis import Redis
from rq import Queue, Worker
from rq.job import Callback, JobStatus
from rq.serializers import DefaultSerializer

from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Hold, Workplace
from worker.feedback.waiting import read_waiting
from worker.queue.job_state import RETRAIN_QUEUE, queue
from worker.queue.retraining import enqueue_retraining
from worker.queue.rq_worker import GRACE_S

StartWorker = Callable[..., WorkerProcess]
MakeWorkplace = Callable[[str], Workplace]


def enqueue_held(workplace: Workplace, hold: Hold) -> str:
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call(
        "tests.integration.held_jobs.held", args=[hold.port], timeout=DEADLINE_S
    )
    return str(job.id)


def job_process(worker: WorkerProcess) -> psutil.Process:
    """Return the process of the running job."""
    [process] = [process for process in worker.family() if "tests.open_job_process" in process.cmdline()]
    return process


def left_running(family: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not ended; zombies have."""
    _, alive = psutil.wait_procs(family, timeout=2)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_a_worker_survives_a_restart_of_redis_and_nothing_is_lost(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker
) -> None:
    workplace = make_workplace(own_redis.url)
    workplace.redis = own_redis.client()
    worker = start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "before"))
    workplace.correct(range(9, 12))

    own_redis.kill()
    own_redis.start()

    assert len(workplace.feedback.corrections(1)) == 11
    assert read_waiting(workplace.redis, 1).count == 3
    workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "after"))
    assert read_waiting(workplace.redis, 1).count == 0
    assert worker.is_alive


def test_a_job_that_runs_while_redis_restarts_comes_to_its_end(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker, hold: Hold
) -> None:
    workplace = make_workplace(own_redis.url)
    workplace.redis = own_redis.client()
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()

    own_redis.kill()
    hold.release()
    own_redis.start()

    assert workplace.result(job_id).return_value == "released"
    assert worker.is_alive


@pytest.mark.long
def test_a_redis_that_lost_its_data_learns_of_the_worker_again(workplace: Workplace, start_worker: StartWorker) -> None:
    worker = start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "before"))

    workplace.redis.flushall()
    workplace.correct(range(1, 9))

    assert workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "after")).return_value
    [rq_worker] = Worker.all(workplace.redis)
    assert rq_worker.pid == worker.pid


def test_a_worker_waits_for_a_redis_that_is_not_there_yet(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker
) -> None:
    workplace = make_workplace(own_redis.url)
    workplace.redis = own_redis.client()
    own_redis.kill()

    start_worker(workplace.environment())
    own_redis.start()

    workplace.correct(range(1, 9))
    assert workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")).return_value


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_cleanly_on_a_signal(
    workplace: Workplace, start_worker: StartWorker, signal_number: signal.Signals
) -> None:
    worker = start_worker(workplace.environment())
    workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "to see that it works"))
    family = worker.family()
    assert len(family) > 1

    os.kill(worker.pid, signal_number)

    assert worker.wait(timeout_s=10) == 0
    assert left_running(family) == []
    assert Worker.all(workplace.redis) == []


def test_a_worker_ends_in_time_when_redis_is_away(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker
) -> None:
    workplace = make_workplace(own_redis.url)
    workplace.redis = own_redis.client()
    worker = start_worker(workplace.environment())
    workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "to see that it works"))
    family = worker.family()

    own_redis.kill()

    assert worker.stop(timeout_s=10) == 0
    assert left_running(family) == []


def test_a_worker_that_must_end_hands_its_job_back_and_another_worker_does_it(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    first = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()

    assert first.stop(timeout_s=GRACE_S + 15) == 0

    assert workplace.job(job_id).get_status() == JobStatus.QUEUED
    workplace.redis.delete(f"rq:results:{job_id}")  # where the interruption is recorded
    start_worker(workplace.environment())
    hold.wait_until_running()
    hold.release()
    assert workplace.result(job_id).return_value == "released"


def test_a_job_that_ends_in_time_is_not_interrupted(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()

    os.kill(worker.pid, signal.SIGTERM)
    hold.release()

    assert workplace.result(job_id).return_value == "released"


def test_a_job_whose_process_dies_fails_visibly_and_the_worker_goes_on(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    job_id = enqueue_held(workplace, hold)
    hold.wait_until_running()

    job_process(worker).kill()

    result = workplace.result(job_id)
    assert result.type.name == "FAILED"
    assert "terminated unexpectedly" in str(result.exc_string)
    assert job_id in queue(workplace.redis, RETRAIN_QUEUE).failed_job_registry
    next_job = enqueue_held(workplace, hold)
    hold.wait_until_running()
    hold.release()
    assert workplace.result(next_job).return_value == "released"


def test_jobs_run_at_low_priority_with_one_thread(workplace: Workplace, start_worker: StartWorker, hold: Hold) -> None:
    worker = start_worker(workplace.environment())
    enqueue_held(workplace, hold)
    hold.wait_until_running()

    process = job_process(worker)

    assert process.nice() == min(19, psutil.Process().nice() + 10)  # 19 is the lowest priority
    assert process.environ()["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")


def test_a_pickled_job_is_never_unpickled(workplace: Workplace, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker(workplace.environment())
    marker = tmp_path / "pickle-was-run"
    pickled = Queue(RETRAIN_QUEUE, connection=workplace.redis, serializer=DefaultSerializer)

    job = pickled.enqueue_call("pathlib.Path.touch", args=[marker])

    assert workplace.result(job.id).type.name == "FAILED"
    assert not marker.exists()
    assert job.id in queue(workplace.redis, RETRAIN_QUEUE).failed_job_registry
    outcome = workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "a test"))
    assert outcome.type.name == "SUCCESSFUL"


def test_no_password_is_in_the_list_of_processes(
    own_redis: RedisServer, make_workplace: MakeWorkplace, start_worker: StartWorker, hold: Hold
) -> None:
    own_redis.client().config_set("requirepass", "shown-to-nobody")
    workplace = make_workplace(own_redis.url.replace("redis://", "redis://:shown-to-nobody@"))
    worker = start_worker(workplace.environment())
    enqueue_held(workplace, hold)
    hold.wait_until_running()

    lines = [" ".join(process.cmdline()) for process in worker.family()]

    assert len(lines) >= 2
    assert not any("shown-to-nobody" in line for line in lines)
    assert "shown-to-nobody" not in worker.log.read_text()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RETRAIN_AFTER", "0", "RETRAIN_AFTER must be 1 or more, got 0"),
        ("MODEL_STORE", "nowhere://bucket", "the model store 'nowhere://bucket' cannot be used: Protocol not known"),
    ],
)
def test_a_bad_setting_stops_the_worker_with_one_sentence(redis: Redis, name: str, value: str, sentence: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "worker"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"captioner worker: {sentence}")
    assert ended.stderr.count("\n") == 1


def test_the_log_has_one_line_for_each_finished_job(workplace: Workplace, start_worker: StartWorker) -> None:
    worker = start_worker(workplace.environment())
    job_id = enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")
    workplace.result(job_id)
    worker.stop()

    lines = worker.log.read_text().splitlines()

    [line] = [line for line in lines if f"job={job_id}" in line]
    assert f"job done queue=retrain job={job_id} status=finished seconds=" in line
    assert len(lines) < 10


@pytest.mark.parametrize(
    "function", ["os.system", "pathlib.Path.touch", "backend.jobs.time.time", "tests.integration.held_jobs.held"]
)
def test_a_worker_runs_our_own_functions_and_no_others(workplace: Workplace, tmp_path: Path, function: str) -> None:
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if function == "os.system" else str(marker)
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call(
        function, args=[argument], on_failure=Callback("os.system"), on_success=Callback("os.system")
    )
    worker = WorkerProcess(tmp_path / "log", workplace.environment(), "--burst", module="worker")

    assert worker.wait(DEADLINE_S) == 0
    result = job.latest_result()
    assert result is not None
    assert f"a worker runs no job that calls {function!r}" in str(result.exc_string)
    assert not marker.exists()
