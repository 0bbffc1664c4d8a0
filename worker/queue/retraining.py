"""Retrainings in the queue: at most one waits and one runs per project.

The queue `label-studio` holds jobs that talk to Label Studio (functions of `backend.jobs`). The queue `retrain` holds
retrainings and the checks that lead to one. Jobs carry ids as JSON, never pickles; each has a time limit and may run
twice without harm.

    captioner:retraining:<project>   hash   waiting, running: job ids
                                            last: exists while retraining is paused; the id of the only job that may
                                            still train, or ""
                                            stopped: number of the last change when a person stopped or cancelled
                                                     a retraining
                                            began: start of the last retraining, Unix time in microseconds
    captioner:idle-check:<project>   text   exists while a check for quiet is scheduled
    captioner:next-pull              text   id of the scheduled or queued job that will pull every project

A job id in these keys proves nothing: Redis may have lost the job, or its worker may have died. So the job is looked up
each time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Retry
from rq.job import Dependency, Job, JobStatus
from rq.serializers import JSONSerializer

from model.errors import JobError
from worker.feedback.left_projects import why_left
from worker.feedback.waiting import read_waiting
from worker.queue.job_origin import job_origin
from worker.queue.job_state import (
    FAILURE_KEPT_S,
    LABEL_STUDIO_QUEUE,
    RESULT_KEPT_S,
    RETRAIN_QUEUE,
    is_pending,
    is_surely_pending,
    new_job_id,
    queue,
    text_or_none,
)
from worker.settings import Settings

RETRAIN_MARGIN_S = 180
"""Time of a retraining beside the fitting: loading, reading features, evaluation, publishing. The budget counts twice,
because a training that fails because of certain corrections starts once more."""
COLLECT_LIMIT_S = 600

RETRAIN_RETRIES = Retry(max=2, interval=[10, 60])
ROLLBACK_LIMIT_S = 300
ROLLBACK_KEPT_S = 3600
PAUSED = "Retraining of project {project_id} is paused. Resume it first."
LEFT = "Project {project_id} is not trained any more: {reason}."


def remember_beginning(redis: Redis, project_id: int) -> None:
    """Record that a retraining of the project begins now."""
    redis.hset(retraining_key(project_id), "began", redis_now(redis))


def enqueue_retraining(redis: Redis, settings: Settings, project_id: int, reason: str) -> str:
    """Make sure that a retraining of the project starts after this moment; return its job id.

    If a retraining already waits, its id is returned. A waiting retraining starts after the running one, and after a
    pull of the annotations that we missed (`backend.jobs.collect_corrections`). If the pull fails, it starts all the
    same.

    Raises:
        JobError: retraining of the project is paused, and no retraining waits; or the project has left.
    """
    if reason_left := why_left(redis, project_id):
        raise JobError(LEFT.format(project_id=project_id, reason=reason_left))
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(retraining_key(project_id))
            waiting, last = map(text_or_none, pipeline.hmget(retraining_key(project_id), "waiting", "last"))
            if waiting is not None and is_surely_pending(redis, waiting):
                return waiting
            if last is not None:
                raise JobError(PAUSED.format(project_id=project_id))
            try:
                return _enqueue_after_pull(redis, pipeline, settings, project_id, reason)
            except WatchError:
                continue  # another process has just enqueued one


def _enqueue_after_pull(redis: Redis, pipeline: Pipeline, settings: Settings, project_id: int, reason: str) -> str:
    """Enqueue the pull and the retraining, and name the latter as the waiting one: all of it or nothing."""
    label_studio, retrain = queue(redis, LABEL_STUDIO_QUEUE), queue(redis, RETRAIN_QUEUE)
    pull = label_studio.create_job(
        "backend.jobs.collect_corrections",
        args=[project_id],
        job_id=new_job_id("collect", project_id),
        timeout=COLLECT_LIMIT_S,
        result_ttl=RESULT_KEPT_S,
        failure_ttl=FAILURE_KEPT_S,
        meta=job_origin(),
        status=JobStatus.QUEUED,
    )
    pull.save()  # a dependency must exist before it can be depended on
    try:
        retraining = retrain.enqueue_call(
            "worker.jobs.retrain",
            args=[project_id, reason],
            # RQ keeps a job's id as long as its result or failure, so an id of the project alone would lock the
            # project out; the change number and a random end make it new each time.
            job_id=new_job_id(f"retrain-{project_id}", read_waiting(redis, project_id).change_number),
            timeout=2 * settings.retrain_budget_s + RETRAIN_MARGIN_S,
            result_ttl=RESULT_KEPT_S,
            failure_ttl=FAILURE_KEPT_S,
            meta=job_origin(),
            retry=RETRAIN_RETRIES,
            depends_on=Dependency([pull, *_running_job(redis, project_id)], allow_failure=True),
            pipeline=pipeline,
        )
        label_studio.enqueue_job(pull, pipeline=pipeline)
        pipeline.hset(retraining_key(project_id), "waiting", retraining.id)
        pipeline.execute()
    except WatchError:
        pull.delete()
        raise
    return retraining.id


@dataclass(frozen=True, kw_only=True)
class Retrainings:
    """Job ids of a project's retrainings; Redis may have lost a job that is named here."""

    waiting: str | None
    running: str | None


def retrainings_of(redis: Redis, project_ids: Sequence[int]) -> dict[int, Retrainings]:
    """Return the retrainings of each of these projects, in one round trip."""
    with redis.pipeline(transaction=False) as pipeline:
        for project_id in project_ids:
            pipeline.hmget(retraining_key(project_id), "waiting", "running")
        answers = pipeline.execute()
    return {
        project_id: Retrainings(waiting=text_or_none(waiting), running=text_or_none(running))
        for project_id, (waiting, running) in zip(project_ids, answers, strict=True)
    }


def last_before_pause(redis: Redis, project_id: int) -> str | None:
    """Return None unless retraining of the project is paused; else the only job that may still train, or ""."""
    return text_or_none(redis.hget(retraining_key(project_id), "last"))


def enqueue_rollback_check(redis: Redis, project_id: int) -> None:
    """Enqueue the comparison of the served version with the earlier one (`worker.jobs`), unless one waits already."""
    job_id = f"rollback-check-{project_id}"
    if not is_pending(redis, job_id):
        queue(redis, RETRAIN_QUEUE).enqueue_call(
            "worker.jobs.roll_back_if_accepted_less",
            args=[project_id],
            job_id=job_id,
            timeout=ROLLBACK_LIMIT_S,
            result_ttl=ROLLBACK_KEPT_S,
            failure_ttl=FAILURE_KEPT_S,
            meta=job_origin(),
        )


@contextmanager
def only_training(redis: Redis, project_id: int, job_id: str) -> Iterator[bool]:
    """Make the job the project's only training while the block runs; yields False if another job trains it.

    Meanwhile a trigger enqueues another retraining, because changes may come too late for this one.
    """
    is_ours = _begin_running(redis, project_id, job_id)
    try:
        yield is_ours
    finally:
        if is_ours:
            _end_running(redis, project_id, job_id)


def _begin_running(redis: Redis, project_id: int, job_id: str) -> bool:
    key = retraining_key(project_id)
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(key)
            waiting, running = map(text_or_none, pipeline.hmget(key, "waiting", "running"))
            if running not in {None, job_id} and is_pending(redis, str(running)):
                return False
            pipeline.multi()
            pipeline.hset(key, "running", job_id)
            if waiting == job_id:
                pipeline.hdel(key, "waiting")
            try:
                pipeline.execute()
            except WatchError:
                continue
            return True


def _end_running(redis: Redis, project_id: int, job_id: str) -> None:
    """Clear `running`, unless it names another job: this job may have been given up as lost and end late."""
    leave = "if redis.call('HGET', KEYS[1], 'running') == ARGV[1] then redis.call('HDEL', KEYS[1], 'running') end"
    redis.register_script(leave)(keys=[retraining_key(project_id)], args=[job_id])


def _running_job(redis: Redis, project_id: int) -> list[Job]:
    """Return the project's running retraining, if there is a live one that a waiting job can depend on."""
    running = text_or_none(redis.hget(retraining_key(project_id), "running"))
    if running is None or not is_pending(redis, running):
        return []
    return [Job.fetch(running, connection=redis, serializer=JSONSerializer)]


def redis_now(redis: Redis) -> int:
    """Return Redis' clock as change numbers use it: Unix time in microseconds."""
    seconds, microseconds = redis.time()
    return int(seconds * 1_000_000 + microseconds)


def retraining_key(project_id: int) -> str:
    return f"captioner:retraining:{project_id}"
