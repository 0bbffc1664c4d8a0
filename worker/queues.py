"""The two RQ queues, and every way a job gets into them.

`label-studio` holds jobs that talk to Label Studio (functions of `backend.jobs`), `retrain` holds retrainings and the
checks that lead to one. Jobs carry ids as JSON, never pickles; each has its time limit and may run twice without harm.

    captioner:retraining:<project>   hash   waiting and running: job ids, at most one of each; last: there while
                                            retraining is paused, the id of the one job that may still train, or "";
                                            began: when the last one did, Unix time in microseconds
    captioner:idle-check:<project>   text   there while a check for quiet is scheduled
    captioner:next-pull              text   id of the scheduled or queued job that will pull every project

A job id in these keys proves nothing: Redis may have lost the job, or a worker may have died with it. So each is
looked up before it is believed.
"""

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.client import Pipeline
from redis.exceptions import WatchError
from redis.retry import Retry as Reconnect
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Dependency, Job, JobStatus
from rq.serializers import JSONSerializer

from model.errors import JobError
from worker.corrections import CorrectionInbox
from worker.origin import job_origin
from worker.policy import should_retrain
from worker.settings import Settings

LABEL_STUDIO_QUEUE = "label-studio"
RETRAIN_QUEUE = "retrain"
QUEUES = (LABEL_STUDIO_QUEUE, RETRAIN_QUEUE)
"""In the order a worker serves them: short jobs first."""

RETRAIN_MARGIN_S = 180
"""What a retraining may take beside its budget, and that once more if it fails for certain corrections: loading,
reading features, evaluation, publishing."""
BACKEND_JOB_LIMIT_S = 1800
COLLECT_LIMIT_S = 600
CHECK_LIMIT_S = 60
NEXT_PULL_KEY = "captioner:next-pull"
PULL_KEPT_S = 3600
"""There may be hundreds a day, and each tells the same as the one before."""
MOVING_PAUSES_S = (0.0, 0.05, 0.15)
"""A job whose dependency has just ended, or that was just taken, is on no list for some milliseconds."""
REPEAT_AFTER_S = 900
"""How long corrections rest at least when the retraining that took them ended without learning them."""
RESULT_KEPT_S = 24 * 3600
FAILURE_KEPT_S = 30 * 24 * 3600

LABEL_STUDIO_RETRIES = Retry(max=4, interval=[10, 60, 300, 1800])
RETRAIN_RETRIES = Retry(max=2, interval=[10, 60])


def connect(redis_url: str) -> Redis:
    """Return a client that gives up fast: a webhook has one second, and a lost event is pulled later."""
    # One repetition at once: a pooled connection of before a Redis restart fails on its first use.
    again = Reconnect(NoBackoff(), retries=1)
    return Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2, retry=again)


def connect_patiently(redis_url: str) -> Redis:
    """Return a client for jobs: it bears a restart of Redis of some 20 seconds before it raises."""
    again = Reconnect(ExponentialBackoff(base=0.1, cap=1.5), retries=18)
    return Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=30, retry=again)


def queue(redis: Redis, name: str) -> Queue:
    """Return one of our queues; everything in it is JSON."""
    return Queue(name, connection=redis, serializer=JSONSerializer)


def retrain_when_due(redis: Redis, settings: Settings, project_id: int) -> str | None:
    """After a change of the inbox and by the clock: start a retraining when enough changes are due, else see to the
    check for quiet.

    Returns:
        the id of the retraining that will see them, or None while it is not due or the project is paused.
    """
    due = due_corrections(redis, project_id)
    if not due:
        return None
    if not should_retrain(due, settings.retrain_after):
        schedule_idle_check(redis, settings, project_id)
        return None
    with suppress(JobError):  # paused: the corrections wait
        return enqueue_retraining(redis, settings, project_id, f"{due} corrections wait")
    return None


def due_corrections(redis: Redis, project_id: int) -> int:
    """Count the waiting corrections that are a reason to train.

    Those are the ones that no retraining has started with; and all of them when the one that took the others did not
    learn them, because it failed, was stopped or was lost, and they have rested since. The rest is as long as that one
    came after the newest change, so it doubles each time: what never succeeds is tried ten times in its first week, and
    nothing waits for ever.
    """
    inbox = CorrectionInbox(redis)
    untaken, waiting = inbox.untaken(project_id), inbox.waiting(project_id)
    return waiting if waiting > untaken and _has_rested(redis, project_id) else untaken


def _has_rested(redis: Redis, project_id: int) -> bool:
    running, began = map(_text, redis.hmget(retraining_key(project_id), "running", "began"))
    if running is not None and is_pending(redis, running):
        return False
    if began is None:
        return True
    rest_s = max(REPEAT_AFTER_S, (int(began) - CorrectionInbox(redis).change_number(project_id)) / 1e6)
    return (_now(redis) - int(began)) / 1e6 >= rest_s


def remember_beginning(redis: Redis, project_id: int) -> None:
    """Say that a retraining of the project begins now."""
    redis.hset(retraining_key(project_id), "began", _now(redis))


def enqueue_retraining(redis: Redis, settings: Settings, project_id: int, reason: str) -> str:
    """See to it that a retraining of the project starts after this moment; returns its job id.

    At most one runs and one waits per project: a trigger joins the one that waits. The one that waits starts when
    the one that runs has ended, and after the annotations that Label Studio has and we do not were pulled
    (`backend.jobs.collect_corrections`; if that fails, it trains on what is there).

    Raises:
        JobError: retraining of the project is paused, and none waits.
    """
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(retraining_key(project_id))
            waiting, last = map(_text, pipeline.hmget(retraining_key(project_id), "waiting", "last"))
            if waiting is not None and is_surely_pending(redis, waiting):
                return waiting
            if last is not None:
                raise JobError(f"retraining of project {project_id} is paused; resume it first")
            try:
                return _enqueue_after_pull(redis, pipeline, settings, project_id, reason)
            except WatchError:
                continue  # another process triggered in this moment: join its retraining


def _enqueue_after_pull(redis: Redis, pipeline: Pipeline, settings: Settings, project_id: int, reason: str) -> str:
    """Enqueue the pull and the retraining, and name the latter as the one that waits: all of it or nothing."""
    label_studio, retrain = queue(redis, LABEL_STUDIO_QUEUE), queue(redis, RETRAIN_QUEUE)
    pull = label_studio.create_job(
        "backend.jobs.collect_corrections",
        args=[project_id],
        job_id=_new_id("collect", project_id),
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
            # RQ keeps a job's id for as long as its result or failure, so an id of the project alone
            # would lock the project out; the watermark and a random end make it new each time.
            job_id=_new_id(f"retrain-{project_id}", CorrectionInbox(redis).change_number(project_id)),
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
    """The retrainings of one project by job id; Redis may have lost a job that is named here."""

    waiting: str | None
    running: str | None


def retrainings_of(redis: Redis, project_ids: Sequence[int]) -> dict[int, Retrainings]:
    """Return the retrainings of each of these projects; one question."""
    with redis.pipeline(transaction=False) as pipeline:
        for project_id in project_ids:
            pipeline.hmget(retraining_key(project_id), "waiting", "running")
        found = pipeline.execute()
    return {
        project_id: Retrainings(waiting=_text(waiting), running=_text(running))
        for project_id, (waiting, running) in zip(project_ids, found, strict=True)
    }


def last_before_pause(redis: Redis, project_id: int) -> str | None:
    """Return None unless retraining of the project is paused, else the one job that may still train, or ""."""
    return _text(redis.hget(retraining_key(project_id), "last"))


@contextmanager
def only_training(redis: Redis, project_id: int, job_id: str) -> Iterator[bool]:
    """Hold the project's place of the one that trains; yields False when another job lives that holds it.

    From here on a trigger makes a new retraining wait: whatever changes now may be too late for this one.
    """
    is_ours = _take_place(redis, project_id, job_id)
    try:
        yield is_ours
    finally:
        if is_ours:
            _leave_place(redis, project_id, job_id)


def schedule_idle_check(redis: Redis, settings: Settings, project_id: int, delay_s: float | None = None) -> None:
    """See to it that RETRAIN_IDLE_S after the newest change a retraining starts, if any change still waits then.

    One check is scheduled per project, not per correction; it moves itself on while changes keep coming.
    """
    if settings.retrain_idle_s == 0:
        return
    # RQ cuts its times to whole seconds; a second more, and the check does not come a moment too early.
    delay = timedelta(seconds=1 + math.ceil(settings.retrain_idle_s if delay_s is None else delay_s))
    # Should Redis lose the scheduled job, the key goes too and the next correction schedules another.
    if redis.set(_idle_key(project_id), 1, nx=True, ex=delay + timedelta(minutes=2)):
        queue(redis, RETRAIN_QUEUE).enqueue_in(
            delay,
            "worker.idle.retrain_if_idle",
            project_id,
            job_id=_new_id("idle-check", project_id),
            job_timeout=CHECK_LIMIT_S,
            result_ttl=CHECK_LIMIT_S,
            failure_ttl=FAILURE_KEPT_S,
            meta=job_origin(),
        )


def forget_idle_check(redis: Redis, project_id: int) -> None:
    """Let the next change schedule a check again; the check calls this first."""
    redis.delete(_idle_key(project_id))


def schedule_pull(redis: Redis, settings: Settings, delay_s: int | None = None) -> None:
    """See to it that every connected project is pulled in so many seconds at the latest, by default RECONCILE_EVERY_S.

    However many backends and workers ask, one pull waits: who wants it sooner brings it forward. It comes after this
    moment, so one that runs already is none of those that wait.
    """
    if settings.label_studio_api_key is None or (delay_s is None and settings.reconcile_every_s == 0):
        return
    # RQ looks for what is due by whole seconds.
    due = int(time.time()) + (settings.reconcile_every_s if delay_s is None else delay_s)
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(NEXT_PULL_KEY)
            waiting = _text(pipeline.get(NEXT_PULL_KEY))
            if waiting is not None and _has_not_started(redis, waiting):
                _bring_forward(redis, waiting, due)
                return
            try:
                _schedule_next_pull(redis, pipeline, due)
                return
            except WatchError:
                continue  # another process scheduled one in this moment


def _schedule_next_pull(redis: Redis, pipeline: Pipeline, due: int) -> None:
    """Schedule a pull for this time (Unix, seconds), and name it as the next one: both or nothing."""
    label_studio = queue(redis, LABEL_STUDIO_QUEUE)
    pull = label_studio.create_job(
        "backend.jobs.pull_projects",
        job_id=_new_id("pull-projects"),
        timeout=BACKEND_JOB_LIMIT_S,
        result_ttl=PULL_KEPT_S,
        failure_ttl=PULL_KEPT_S,
        status=JobStatus.SCHEDULED,
    )
    pipeline.multi()
    pull.save(pipeline)
    # Not by `enqueue_at`, which writes the time past the pipeline.
    pipeline.zadd(label_studio.scheduled_job_registry.key, {pull.id: due})
    pipeline.set(NEXT_PULL_KEY, pull.id)
    pipeline.execute()


def _bring_forward(redis: Redis, job_id: str, due: int) -> None:
    """Let a scheduled job start at this time if it would start later."""
    schedule = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.key
    scheduled_for = redis.zscore(schedule, job_id)
    if scheduled_for is not None and scheduled_for > due:
        redis.zadd(schedule, {job_id: due}, xx=True)  # not if RQ has just put it into its queue


def enqueue_backend_job(redis: Redis, name: str, *args: Any, delay_s: int = 0) -> str:
    """Enqueue `backend.jobs.<name>(*args)` on the label-studio queue, at once or in so many seconds.

    The args must be JSON. Returns the job id.
    """
    label_studio = queue(redis, LABEL_STUDIO_QUEUE)
    job = label_studio.create_job(
        f"backend.jobs.{name}",
        args=args,
        job_id=_new_id(name.replace("_", "-"), *args[:1]),
        timeout=BACKEND_JOB_LIMIT_S,
        result_ttl=RESULT_KEPT_S,
        failure_ttl=FAILURE_KEPT_S,
        meta=job_origin(),
        retry=LABEL_STUDIO_RETRIES,
        status=JobStatus.SCHEDULED if delay_s else JobStatus.QUEUED,
    )
    if delay_s:
        label_studio.schedule_job(job, datetime.now(UTC) + timedelta(seconds=delay_s))
    else:
        label_studio.enqueue_job(job)
    return str(job.id)


def is_pending(redis: Redis, job_id: str) -> bool:
    """Tell whether a job waits or runs.

    False too when Redis lost it, or when a worker died between taking and starting it.
    """
    try:
        job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    home = queue(redis, job.origin)
    match job.get_status(refresh=False):
        case JobStatus.DEFERRED:
            return any(is_pending(redis, dependency) for dependency in job.dependency_ids)
        case JobStatus.SCHEDULED:
            return job_id in home.scheduled_job_registry
        case JobStatus.QUEUED:
            # A job that is taken stays "queued" until its process has started.
            return home.get_job_position(job_id) is not None or job_id in home.started_job_registry
        case JobStatus.STARTED:
            return job_id in home.started_job_registry
    return False


def is_surely_pending(redis: Redis, job_id: str) -> bool:
    """Tell whether a job waits or runs, looking again where RQ may just be moving it between two of its lists."""
    for pause_s in MOVING_PAUSES_S:
        time.sleep(pause_s)
        if is_pending(redis, job_id):
            return True
    return False


def _has_not_started(redis: Redis, job_id: str) -> bool:
    """Tell whether a job is still to come."""
    if not is_surely_pending(redis, job_id):
        return False
    job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    return job.get_status(refresh=False) in {JobStatus.SCHEDULED, JobStatus.QUEUED}


def _take_place(redis: Redis, project_id: int, job_id: str) -> bool:
    key = retraining_key(project_id)
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(key)
            waiting, running = map(_text, pipeline.hmget(key, "waiting", "running"))
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


def _leave_place(redis: Redis, project_id: int, job_id: str) -> None:
    """Only if it is still ours: a job that was given up for dead may come to its end after all."""
    leave = "if redis.call('HGET', KEYS[1], 'running') == ARGV[1] then redis.call('HDEL', KEYS[1], 'running') end"
    redis.register_script(leave)(keys=[retraining_key(project_id)], args=[job_id])


def _running_job(redis: Redis, project_id: int) -> list[Job]:
    """Return the project's running retraining, if there is one that a waiting job will be told the end of."""
    running = _text(redis.hget(retraining_key(project_id), "running"))
    if running is None or not is_pending(redis, running):
        return []
    return [Job.fetch(running, connection=redis, serializer=JSONSerializer)]


def _now(redis: Redis) -> int:
    """Return Redis' clock as change numbers are made of it: Unix time in microseconds."""
    seconds, microseconds = redis.time()
    return int(seconds * 1_000_000 + microseconds)


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _new_id(*parts: object) -> str:
    return "-".join([*map(str, parts), secrets.token_hex(4)])


def retraining_key(project_id: int) -> str:
    return f"captioner:retraining:{project_id}"


def _idle_key(project_id: int) -> str:
    return f"captioner:idle-check:{project_id}"
