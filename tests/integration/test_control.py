"""Control of retrainings and jobs by a person; real workers on a real Redis."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from redis import Redis
from rq import Queue
from rq.job import JobStatus
from rq.serializers import DefaultSerializer

from model.errors import JobError
from tests.backend_client import BackendClient
from tests.factories import store_annotation
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Hold, Workplace
from worker import jobs
from worker.feedback.waiting import claim, read_waiting
from worker.queue.control import RetrainingControl, cancel_job, retry_job, stop_job
from worker.queue.job_failure import cause
from worker.queue.job_log import job_log
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, is_pending, queue
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_if_idle, retrain_when_due

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def control(workplace: Workplace) -> RetrainingControl:
    return RetrainingControl(workplace.redis, workplace.settings)


def trigger(workplace: Workplace, project_id: int = 1) -> str:
    return enqueue_retraining(workplace.redis, workplace.settings, project_id, "a test")


def run_held_training(workplace: Workplace, hold: Hold) -> str:
    """Let a worker train project 1 until the test releases it."""
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call(
        "tests.integration.held_jobs.held_training", args=[1, hold.port], timeout=DEADLINE_S, failure_ttl=DEADLINE_S
    )
    hold.wait_until_running()
    return str(job.id)


def test_a_running_retraining_that_is_stopped_ends_within_5_s_and_the_next_one_runs(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    running = run_held_training(workplace, hold)
    workplace.correct(range(1, 9))
    following = trigger(workplace)

    asked_at = time.monotonic()
    stop_job(workplace.redis, running)
    result = workplace.result(running)

    assert time.monotonic() - asked_at < 5
    assert (result.type.name, cause(workplace.job(running))) == ("FAILED", "stopped by a person")
    outcome = workplace.result(following).return_value
    assert outcome is not None
    assert workplace.registry.serving(1) == outcome["version"]


def test_a_retraining_that_is_stopped_leaves_the_serving_version_and_is_not_repeated_by_itself(
    workplace: Workplace, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    job_id = trigger(workplace)
    workplace.wait_until(lambda: workplace.job(job_id).meta)

    stop_job(workplace.redis, job_id)

    assert workplace.result(job_id).exc_string == "stopped by a person"
    assert workplace.job(job_id).get_status() == JobStatus.FAILED
    assert workplace.registry.serving(1) == workplace.bundle.version
    assert read_waiting(workplace.redis, 1).count == 8
    monkeypatch.setenv("REDIS_URL", workplace.settings.redis_url)
    monkeypatch.setattr("worker.queue.trigger.is_quiet", lambda *_: True)
    assert retrain_if_idle(1) is None


@pytest.mark.parametrize("how", [stop_job, cancel_job])
def test_what_a_person_stopped_stays_stopped_until_something_changes_or_a_person_asks(
    workplace: Workplace, start_worker: StartWorker, how: Callable[[Redis, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = workplace.settings.model_copy(update={"retrain_after": 8})
    workplace.correct(range(1, 9))
    job_id = trigger(workplace)
    if how is stop_job:
        start_worker(workplace.environment())
        workplace.wait_until(lambda: workplace.job(job_id).meta)
    how(workplace.redis, job_id)
    workplace.wait_until(lambda: not is_pending(workplace.redis, job_id))
    monkeypatch.setattr("worker.queue.trigger.RETRY_AFTER_S", 0)  # a failed one would be tried again now

    by_itself = retrain_when_due(workplace.redis, settings, 1)
    workplace.correct(range(9, 18))
    after_a_change = retrain_when_due(workplace.redis, settings, 1)

    assert by_itself is None
    assert after_a_change is not None


def test_a_stopped_job_runs_again_when_a_person_retries_it(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    job_id = run_held_training(workplace, hold)
    stop_job(workplace.redis, job_id)
    workplace.result(job_id)

    retry_job(workplace.redis, job_id)

    hold.wait_until_running()
    hold.release()
    workplace.wait_until(lambda: workplace.job(job_id).get_status() == JobStatus.FINISHED)
    assert workplace.job(job_id).return_value() is True


def test_only_a_job_that_runs_can_be_stopped(workplace: Workplace) -> None:
    job_id = trigger(workplace)

    with pytest.raises(JobError, match=r"does not run \(it is deferred\)"):
        stop_job(workplace.redis, job_id)
    with pytest.raises(JobError, match="There is no job nothing"):
        stop_job(workplace.redis, "nothing")


def test_a_job_whose_worker_is_gone_cannot_be_stopped_and_it_is_said_why(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    worker = start_worker(workplace.environment())
    job_id = run_held_training(workplace, hold)
    worker.kill()
    channel = f"rq:pubsub:{workplace.job(job_id).worker_name}"
    workplace.wait_until(lambda: workplace.redis.pubsub_numsub(channel)[0][1] == 0)

    with pytest.raises(
        JobError, match=r"does not listen\. If the worker is lost, the job is taken from it within 15 s"
    ):
        stop_job(workplace.redis, job_id)


def test_a_cancelled_retraining_never_runs_and_the_next_trigger_makes_a_new_one(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    cancelled = trigger(workplace)

    cancel_job(workplace.redis, cancelled)

    assert not is_pending(workplace.redis, cancelled)
    assert 0 < workplace.redis.ttl(workplace.job(cancelled).key) <= 30 * 24 * 3600
    following = trigger(workplace)
    assert following != cancelled
    start_worker(workplace.environment())
    workplace.result(following)
    assert workplace.job(cancelled).get_status() == JobStatus.CANCELED


def test_a_job_that_waits_for_a_cancelled_one_goes_on_without_it(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    retraining = trigger(workplace)
    [pull] = queue(workplace.redis, LABEL_STUDIO_QUEUE).job_ids

    cancel_job(workplace.redis, pull)

    assert queue(workplace.redis, RETRAIN_QUEUE).job_ids == [retraining]
    assert queue(workplace.redis, LABEL_STUDIO_QUEUE).count == 0


def test_a_job_that_runs_or_has_ended_cannot_be_cancelled(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    job_id = run_held_training(workplace, hold)

    with pytest.raises(JobError, match=r"does not wait \(it is started\)"):
        cancel_job(workplace.redis, job_id)
    hold.release()
    workplace.result(job_id)
    with pytest.raises(JobError, match=r"does not wait \(it is finished\)"):
        cancel_job(workplace.redis, job_id)


def test_a_job_that_a_worker_has_just_taken_is_not_cancelled(workplace: Workplace) -> None:
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call("worker.jobs.retrain", args=[1, "a test"])
    workplace.redis.delete(queue(workplace.redis, RETRAIN_QUEUE).key)

    with pytest.raises(JobError, match="is just being started"):
        cancel_job(workplace.redis, job.id)


def test_only_a_failed_job_can_be_retried(workplace: Workplace) -> None:
    with pytest.raises(JobError, match=r"did not fail \(it is deferred\)"):
        retry_job(workplace.redis, trigger(workplace))


def test_a_foreign_job_can_be_cancelled_and_retried(workplace: Workplace, start_worker: StartWorker) -> None:
    pickled = Queue(RETRAIN_QUEUE, connection=workplace.redis, serializer=DefaultSerializer)
    first, second = (pickled.enqueue_call("math.sqrt", args=[4]).id for _ in range(2))

    cancel_job(workplace.redis, first)
    start_worker(workplace.environment(), "--burst").wait(DEADLINE_S)
    retry_job(workplace.redis, second)

    assert queue(workplace.redis, RETRAIN_QUEUE).job_ids == [second]


def test_a_failed_retraining_becomes_the_waiting_one_when_it_is_retried(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    for correction in workplace.correct(range(1, 4)):
        store_annotation(workplace.redis, replace(correction, image_key=None, updated_at="2026-01-31T12:00:00Z"))
    failed = trigger(workplace)
    start_worker(workplace.environment(), "--burst").wait(DEADLINE_S)
    assert "No correction of project 1 can be used for training" in str(cause(workplace.job(failed)))

    retry_job(workplace.redis, failed)

    assert trigger(workplace) == failed
    with pytest.raises(JobError, match="did not fail"):
        retry_job(workplace.redis, failed)


def test_a_paused_project_starts_no_retraining_and_loses_no_correction(
    workplace: Workplace, control: RetrainingControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in workplace.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.queue.trigger.is_quiet", lambda *_: True)
    workplace.correct(range(1, 30))
    waiting = retrain_when_due(workplace.redis, workplace.settings, 1)
    assert waiting is not None

    control.pause(1)
    control.pause(1)

    assert (control.state(1), control.state(2)) == ("paused", "on")
    assert workplace.job(waiting).get_status() == JobStatus.CANCELED
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    assert retrain_if_idle(1) is None
    with pytest.raises(JobError, match="Retraining of project 1 is paused"):
        trigger(workplace)
    assert jobs.retrain(1, "taken in the moment of the pause") == {
        "project_id": 1,
        "version": None,
        "published": False,
        "decision": "Retraining of the project is paused.",
    }
    assert read_waiting(workplace.redis, 1).count == 29
    assert trigger(workplace, project_id=2)


def test_resume_starts_a_retraining_if_enough_waits(workplace: Workplace, control: RetrainingControl) -> None:
    control.pause(1)
    control.pause(2)
    workplace.correct(range(1, 21))
    workplace.correct(range(101, 103), project_id=2)

    control.resume(1)
    control.resume(2)

    assert (control.state(1), control.state(2)) == ("on", "on")
    [retraining] = queue(workplace.redis, RETRAIN_QUEUE).deferred_job_registry.get_job_ids()
    assert workplace.job(retraining).args == [1, "20 corrections wait"]


def test_resume_starts_a_retraining_on_the_corrections_that_a_stopped_one_had_claimed(
    workplace: Workplace, control: RetrainingControl, start_worker: StartWorker
) -> None:
    worker = start_worker(workplace.environment())
    workplace.correct(range(1, 26))
    stopped = trigger(workplace)
    workplace.wait_until(lambda: workplace.job(stopped).meta)
    control.pause(1)
    stop_job(workplace.redis, stopped)
    workplace.result(stopped)
    worker.kill()

    control.resume(1)

    [retraining] = queue(workplace.redis, RETRAIN_QUEUE).deferred_job_registry.get_job_ids()
    assert workplace.job(retraining).args == [1, "25 corrections wait"]


def test_drain_trains_once_on_the_waiting_corrections_and_then_pauses(
    workplace: Workplace, control: RetrainingControl, start_worker: StartWorker
) -> None:
    workplace.correct(range(1, 9))

    control.drain(1)
    control.drain(1)

    assert control.state(1) == "draining"
    last = trigger(workplace)  # joins the one that waits
    start_worker(workplace.environment())
    outcome = workplace.result(last).return_value
    assert outcome is not None
    assert outcome["published"]
    workplace.wait_until(lambda: control.state(1) == "paused")
    workplace.correct(range(9, 40))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    assert read_waiting(workplace.redis, 1).count == 31


def test_drain_ends_with_the_running_training_if_that_claimed_all(
    workplace: Workplace, control: RetrainingControl, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    running = run_held_training(workplace, hold)
    claim(workplace.redis, 1)

    control.drain(1)

    assert control.state(1) == "draining"
    hold.release()
    workplace.result(running)
    workplace.wait_until(lambda: control.state(1) == "paused")


def test_drain_of_nothing_is_a_pause(workplace: Workplace, control: RetrainingControl) -> None:
    control.drain(1)

    assert control.state(1) == "paused"


def test_start_training_of_a_paused_project_is_refused_with_the_reason(backend: BackendClient) -> None:
    RetrainingControl(backend.services.redis, backend.settings).pause(14)

    response = backend.post("/webhook", {"action": "START_TRAINING", "project": {"id": 14}})

    assert response.status_code == 409
    assert response.get_json() == {"error": "Retraining of project 14 is paused. Resume it first."}


def test_the_log_of_a_job_is_kept_beside_it_and_expires_with_it(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    done = trigger(workplace)
    workplace.result(done)
    failed = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call("math.sqrt", args=[-1], failure_ttl=DEADLINE_S).id
    workplace.result(failed)
    following = trigger(workplace, project_id=2)
    workplace.result(following)  # so the worker is done with the two before

    [line] = [line for line in job_log(workplace.redis, done) if "retraining done" in line]
    assert "INFO worker.learning.version_record retraining done project=1" in line
    assert "    ValueError: math domain error" in job_log(workplace.redis, failed)
    for job_id in (done, failed):
        log_ttl_s = workplace.redis.ttl(f"captioner:job-log:{job_id}")
        assert abs(log_ttl_s - workplace.redis.ttl(f"rq:job:{job_id}")) <= 1
    assert job_log(workplace.redis, "nothing") == []


def test_the_last_500_lines_of_a_long_log_are_kept(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    job = queue(workplace.redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.talkative", args=[700])

    workplace.result(job.id)

    lines = job_log(workplace.redis, job.id)
    assert len(lines) == 500
    assert lines[-1].endswith("line 699")


def test_the_losses_of_a_retraining_stay_with_it(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))

    job_id = trigger(workplace)
    workplace.result(job_id)

    meta = workplace.job(job_id).meta
    assert meta["phase"] == "done"
    steps = [step for step, _ in meta["losses"]]
    assert steps == sorted(steps)
    assert 1 < len(steps) <= 120
    assert meta["losses"][0][1] > meta["losses"][-1][1]
    assert meta["epoch"] == meta["epochs"]
