"""Triggers of retrainings on a real Redis; no worker takes the jobs unless the test starts one."""

import json
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq.job import JobStatus

from tests.factories import changed_settings, make_correction, store_annotation
from tests.worker_process import WorkerProcess
from tests.workplace import Hold, Workplace
from worker.feedback.waiting import claim, mark_trained, note_taught_by_memory, read_waiting
from worker.queue.backend_jobs import enqueue_backend_job
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, is_pending, queue
from worker.queue.retraining import enqueue_retraining, only_training, remember_beginning
from worker.queue.scheduled_jobs import enqueue_due_jobs
from worker.queue.trigger import retrain_if_idle, retrain_when_due, schedule_idle_check

StartWorker = Callable[..., WorkerProcess]


def trigger(workplace: Workplace, project_id: int = 1) -> str:
    return enqueue_retraining(workplace.redis, workplace.settings, project_id, "a test")


def idle_checks(redis: Redis) -> list[str]:
    return list(queue(redis, RETRAIN_QUEUE).scheduled_job_registry.get_job_ids())


def test_ten_triggers_make_one_retraining_wait_behind_one_pull(workplace: Workplace) -> None:
    job_ids = {trigger(workplace) for _ in range(10)}

    assert len(job_ids) == 1
    assert queue(workplace.redis, LABEL_STUDIO_QUEUE).count == 1
    assert queue(workplace.redis, RETRAIN_QUEUE).deferred_job_registry.get_job_ids() == list(job_ids)


def test_triggers_of_many_backends_at_once_make_one_retraining(workplace: Workplace) -> None:
    with ThreadPoolExecutor(8) as pool:
        job_ids = set(pool.map(lambda _: trigger(workplace), range(40)))

    assert len(job_ids) == 1
    assert queue(workplace.redis, LABEL_STUDIO_QUEUE).count == 1
    assert queue(workplace.redis, RETRAIN_QUEUE).deferred_job_registry.count == 1


def test_each_project_has_a_retraining_of_its_own(workplace: Workplace) -> None:
    assert trigger(workplace, 1) != trigger(workplace, 2)


def test_jobs_are_json_with_time_limits_and_an_end_to_what_is_kept(workplace: Workplace) -> None:
    job_id = trigger(workplace)
    backend_job_id = enqueue_backend_job(workplace.redis, "refresh_predictions", 1, "v1-00000000")

    stored = zlib.decompress(workplace.redis.hget(f"rq:job:{job_id}", "data"))  # type: ignore[arg-type]
    assert json.loads(stored) == ["worker.jobs.retrain", None, [1, "a test"], {}]
    for job in (workplace.job(job_id), workplace.job(backend_job_id)):
        assert 0 < int(job.timeout or 0) <= 3600
        assert 0 < int(job.result_ttl or 0) < int(job.failure_ttl or 0)
        assert job.retries_left


@pytest.mark.parametrize("loss", ["the job", "the pull it waits for", "its turn"])
def test_a_retraining_that_got_lost_is_replaced_by_the_next_trigger(workplace: Workplace, loss: str) -> None:
    lost = trigger(workplace)
    [pull] = queue(workplace.redis, LABEL_STUDIO_QUEUE).job_ids
    match loss:
        case "the job":
            workplace.redis.delete(f"rq:job:{lost}")
        case "the pull it waits for":
            workplace.redis.delete(f"rq:job:{pull}")
        case "its turn":  # a worker took the pull from the queue and died before it started
            workplace.redis.delete(f"rq:queue:{LABEL_STUDIO_QUEUE}")

    assert not is_pending(workplace.redis, lost)
    assert trigger(workplace) != lost


def test_after_redis_lost_everything_the_next_trigger_works(workplace: Workplace) -> None:
    lost = trigger(workplace)
    workplace.redis.flushall()

    assert is_pending(workplace.redis, trigger(workplace))
    assert not is_pending(workplace.redis, lost)


def test_a_project_whose_training_died_can_be_trained(workplace: Workplace) -> None:
    workplace.redis.hset("captioner:retraining:1", "running", "retrain-1-dead")

    with only_training(workplace.redis, 1, "retrain-1-next") as is_ours:
        assert is_ours

    assert not workplace.redis.exists("captioner:retraining:1")


def test_triggers_during_a_training_make_exactly_one_more_that_follows_it(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    start_worker(workplace.environment())
    retrain = queue(workplace.redis, RETRAIN_QUEUE)
    running = retrain.enqueue_call("tests.integration.held_jobs.held_training", args=[1, hold.port])
    hold.wait_until_running()
    workplace.correct(range(1, 6))

    [following] = {trigger(workplace) for _ in range(10)}
    other = trigger(workplace, project_id=2)

    workplace.result(other)  # another project does not wait for this one
    assert workplace.job(following).get_status() == JobStatus.DEFERRED
    hold.release()
    assert workplace.result(following).type.name == "SUCCESSFUL"
    assert workplace.result(running.id).return_value is True
    ended, started = workplace.job(running.id).ended_at, workplace.job(following).started_at
    assert ended is not None
    assert started is not None
    assert ended < started


def test_corrections_of_a_training_that_runs_do_not_trigger_again(workplace: Workplace) -> None:
    settings = changed_settings(workplace.settings, retrain_after=3)
    for number in (1, 2):
        store_annotation(workplace.redis, make_correction(annotation_id=number))
        assert retrain_when_due(workplace.redis, settings, 1) is None
    store_annotation(workplace.redis, make_correction(annotation_id=3))
    assert retrain_when_due(workplace.redis, settings, 1) is not None

    remember_beginning(workplace.redis, 1)
    claim(workplace.redis, 1)
    store_annotation(workplace.redis, make_correction(annotation_id=4))

    assert read_waiting(workplace.redis, 1).count == 4
    assert retrain_when_due(workplace.redis, settings, 1) is None


def let_time_pass(workplace: Workplace, *, since_change_s: int, since_training_s: int) -> None:
    """Move the events of project 1 back in time by this many seconds."""
    seconds, _ = workplace.redis.time()
    workplace.redis.hset("captioner:changes:1", "last", (seconds - since_change_s) * 1_000_000)
    workplace.redis.hset("captioner:retraining:1", "began", (seconds - since_training_s) * 1_000_000)


def test_corrections_of_a_failed_training_are_trained_on_again_after_growing_waits(workplace: Workplace) -> None:
    workplace.correct(range(1, 26))
    remember_beginning(workplace.redis, 1)
    claim(workplace.redis, 1)

    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    let_time_pass(workplace, since_change_s=36_000, since_training_s=17_000)
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    assert idle_checks(workplace.redis) == []
    let_time_pass(workplace, since_change_s=36_000, since_training_s=19_000)
    repeated = retrain_when_due(workplace.redis, workplace.settings, 1)

    assert workplace.job(str(repeated)).args == [1, "25 corrections wait"]


def test_few_corrections_of_a_failed_training_are_trained_on_again_by_the_check_for_quiet(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", workplace.settings.redis_url)
    workplace.correct(range(1, 4))
    claim(workplace.redis, 1)
    let_time_pass(workplace, since_change_s=2000, since_training_s=1500)

    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None

    assert len(idle_checks(workplace.redis)) == 1
    assert workplace.job(str(retrain_if_idle(1))).args[0] == 1


def test_corrections_of_a_running_training_are_not_trained_on_again(
    workplace: Workplace, start_worker: StartWorker, hold: Hold
) -> None:
    start_worker(workplace.environment())
    queue(workplace.redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.held_training", args=[1, hold.port])
    hold.wait_until_running()
    workplace.correct(range(1, 26))
    claim(workplace.redis, 1)
    let_time_pass(workplace, since_change_s=5000, since_training_s=5000)

    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None


def store_corrections(workplace: Workplace, numbers: range) -> None:
    for number in numbers:
        store_annotation(workplace.redis, make_correction(annotation_id=number))


def train(workplace: Workplace) -> None:
    """Do what a training and its end leave in Redis, without one."""
    mark_trained(workplace.redis, 1, claim(workplace.redis, 1))
    workplace.redis.delete("captioner:retraining:1")


def test_a_project_that_its_memory_teaches_trains_with_100_corrections_and_again_with_150(
    workplace: Workplace,
) -> None:
    note_taught_by_memory(workplace.redis, 1, True)

    store_corrections(workplace, range(1, 100))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    store_corrections(workplace, range(100, 101))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is not None
    train(workplace)
    store_corrections(workplace, range(101, 150))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    store_corrections(workplace, range(150, 151))
    again = retrain_when_due(workplace.redis, workplace.settings, 1)

    assert workplace.job(str(again)).args == [1, "50 corrections wait"]


def test_quiet_starts_no_training_of_a_project_that_its_memory_teaches(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", workplace.settings.redis_url)
    store_corrections(workplace, range(1, 21))
    let_time_pass(workplace, since_change_s=2000, since_training_s=5000)

    note_taught_by_memory(workplace.redis, 1, True)

    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    assert idle_checks(workplace.redis) == []
    assert retrain_if_idle(1) is None


def test_when_the_memory_no_longer_teaches_a_project_its_waiting_corrections_are_trained(workplace: Workplace) -> None:
    note_taught_by_memory(workplace.redis, 1, True)
    store_corrections(workplace, range(1, 31))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None

    note_taught_by_memory(workplace.redis, 1, False)

    assert retrain_when_due(workplace.redis, workplace.settings, 1) is not None


def test_a_person_can_start_a_training_of_a_project_that_its_memory_teaches(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    note_taught_by_memory(workplace.redis, 1, True)
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None

    job_id = trigger(workplace)

    assert workplace.result(job_id).type.name == "SUCCESSFUL"
    assert read_waiting(workplace.redis, 1).trained_on == 8


def test_one_check_for_quiet_is_scheduled_however_many_corrections_come(workplace: Workplace) -> None:
    for _ in range(5):
        schedule_idle_check(workplace.redis, workplace.settings, 1)
    schedule_idle_check(workplace.redis, workplace.settings, 2)

    assert len(idle_checks(workplace.redis)) == 2


def test_an_idle_time_of_0_schedules_nothing(workplace: Workplace) -> None:
    schedule_idle_check(workplace.redis, changed_settings(workplace.settings, retrain_idle_s=0), 1)

    assert idle_checks(workplace.redis) == []


def test_the_check_moves_on_while_corrections_keep_coming(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", workplace.settings.redis_url)
    store_annotation(workplace.redis, make_correction())

    assert retrain_if_idle(1) is None

    assert len(idle_checks(workplace.redis)) == 1


def test_the_check_finds_nothing_to_do_when_all_is_trained(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", workplace.settings.redis_url)
    store_annotation(workplace.redis, make_correction())
    mark_trained(workplace.redis, 1, read_waiting(workplace.redis, 1).change_number)

    assert retrain_if_idle(1) is None

    assert idle_checks(workplace.redis) == []


def test_after_a_quiet_time_few_corrections_are_enough(workplace: Workplace, start_worker: StartWorker) -> None:
    settings = changed_settings(workplace.settings, retrain_idle_s=1)
    start_worker(workplace.environment(RETRAIN_IDLE_S="1"))
    workplace.correct(range(1, 4))

    assert retrain_when_due(workplace.redis, settings, 1) is None

    [check] = idle_checks(workplace.redis)
    retraining = workplace.result(check).return_value
    assert workplace.result(str(retraining)).type.name == "SUCCESSFUL"
    assert read_waiting(workplace.redis, 1).count == 0


A_YEAR_S = 365 * 24 * 3600


def test_jobs_that_a_clock_set_back_left_in_the_far_future_start_now(workplace: Workplace) -> None:
    settings = changed_settings(workplace.settings, retrain_idle_s=300)
    schedule_idle_check(workplace.redis, settings, 1)
    [job_id] = idle_checks(workplace.redis)
    home = queue(workplace.redis, RETRAIN_QUEUE)
    enqueue_due_jobs(workplace.redis, 600)
    waited = home.job_ids
    workplace.redis.zadd(home.scheduled_job_registry.key, {job_id: time.time() + A_YEAR_S})

    enqueue_due_jobs(workplace.redis, 600)

    assert waited == []
    assert home.job_ids == [job_id]
    assert home.scheduled_job_registry.get_job_ids() == []


def test_a_scheduled_job_is_enqueued_once_however_many_processes_look(workplace: Workplace) -> None:
    settings = changed_settings(workplace.settings, retrain_idle_s=300)
    schedule_idle_check(workplace.redis, settings, 1)
    [job_id] = idle_checks(workplace.redis)
    home = queue(workplace.redis, RETRAIN_QUEUE)
    workplace.redis.zadd(home.scheduled_job_registry.key, {job_id: time.time() - 1, "a-job-that-redis-lost": 0})

    with ThreadPoolExecutor(8) as threads:
        for look in [threads.submit(enqueue_due_jobs, workplace.redis, 600) for _ in range(8)]:
            look.result()
    enqueue_due_jobs(workplace.redis, 600)

    assert home.job_ids == [job_id]
    assert home.scheduled_job_registry.get_job_ids() == []


def test_a_project_whose_changes_lie_in_the_future_is_trained_all_the_same(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Redis was set back by a year after the corrections came."""
    workplace.correct(range(1, 4))
    changes, changed = "captioner:changes:1", "captioner:changed:1"
    later = read_waiting(workplace.redis, 1).change_number + A_YEAR_S * 1_000_000
    workplace.redis.hset(changes, "last", later)
    workplace.redis.zadd(changed, {f"{number}/caption": later for number in range(1, 4)}, xx=True)
    workplace.redis.hset("captioner:retraining:1", "began", later)
    for name, value in workplace.environment(RETRAIN_IDLE_S="300").items():
        monkeypatch.setenv(name, value)

    assert retrain_if_idle(1) is not None
