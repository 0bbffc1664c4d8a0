"""Triggers of a retraining: enough corrections wait, or some wait and the project has been quiet.

In a project that its memory teaches, more corrections must wait, and quiet is no reason to train with fewer.

Nothing here imports torch, so the check for quiet costs little.
"""

import logging
import math
from contextlib import suppress
from datetime import timedelta

from redis import Redis

from model.errors import JobError
from worker.feedback.waiting import Waiting, read_waiting
from worker.policy import corrections_needed, is_quiet, should_retrain
from worker.queue.job_origin import job_origin
from worker.queue.job_state import FAILURE_KEPT_S, RETRAIN_QUEUE, is_pending, new_job_id, queue, text_or_none
from worker.queue.retraining import enqueue_retraining, redis_now, retraining_key
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)

CHECK_LIMIT_S = 60
RETRY_AFTER_S = 900
"""The shortest wait before a failed training is retried."""


def retrain_when_due(redis: Redis, settings: Settings, project_id: int) -> str | None:
    """Start a retraining if enough corrections are due, else schedule the check for quiet.

    This is called after a change of the corrections and at each pull.

    Returns:
        the id of the retraining that will use them, or None if none is due or the project is paused.
    """
    waiting = read_waiting(redis, project_id)
    due = due_corrections(redis, project_id, waiting)
    if not due:
        return None
    if not should_retrain(due, _needed(settings, waiting)):
        if not waiting.is_taught_by_memory:
            schedule_idle_check(redis, settings, project_id)
        return None
    with suppress(JobError):  # paused: the corrections wait
        return enqueue_retraining(redis, settings, project_id, f"{due} corrections wait")
    return None


def _needed(settings: Settings, waiting: Waiting) -> int:
    return corrections_needed(settings.retrain_after, waiting.trained_on, waiting.is_taught_by_memory)


def due_corrections(redis: Redis, project_id: int, waiting: Waiting) -> int:
    """Count the waiting corrections that are a reason to train.

    These are the corrections that no retraining has claimed. Corrections whose retraining failed or was lost count
    again after a wait. The wait doubles after each failure, starting at 15 minutes, so a training that never succeeds
    is tried ten times in its first week. After a person stopped or cancelled a retraining, none counts until something
    changes.
    """
    stopped = text_or_none(redis.hget(retraining_key(project_id), "stopped"))
    if stopped is not None and int(stopped) >= waiting.change_number:
        return 0
    may_retry = waiting.count > waiting.unclaimed and _may_retry(redis, project_id, waiting.change_number)
    return waiting.count if may_retry else waiting.unclaimed


def _may_retry(redis: Redis, project_id: int, change_number: int) -> bool:
    """Return True if the last retraining has ended and the wait after it is over."""
    running, began = map(text_or_none, redis.hmget(retraining_key(project_id), "running", "began"))
    if running is not None and is_pending(redis, running):
        return False
    if began is None:
        return True
    # The wait is the time from the newest change to the last retraining, so it doubles with each retraining.
    wait_s = max(RETRY_AFTER_S, (int(began) - change_number) / 1e6)
    since_s = (redis_now(redis) - int(began)) / 1e6
    return since_s >= wait_s or since_s < 0  # a clock that was set back must not end all trials


def schedule_idle_check(redis: Redis, settings: Settings, project_id: int, delay_s: float | None = None) -> None:
    """Make sure that a retraining starts RETRAIN_IDLE_S after the newest change, if any change still waits then.

    Only one check is scheduled per project. It schedules itself again while changes keep coming.
    """
    if settings.retrain_idle_s == 0:
        return
    # RQ cuts times to whole seconds, so without another second the check would come a moment too early.
    delay = timedelta(seconds=1 + math.ceil(settings.retrain_idle_s if delay_s is None else delay_s))
    # If Redis loses the scheduled job, the key expires, and the next correction schedules another check.
    if redis.set(_idle_key(project_id), 1, nx=True, ex=delay + timedelta(minutes=2)):
        queue(redis, RETRAIN_QUEUE).enqueue_in(
            delay,
            "worker.idle.retrain_if_idle",
            project_id,
            job_id=new_job_id("idle-check", project_id),
            job_timeout=CHECK_LIMIT_S,
            result_ttl=CHECK_LIMIT_S,
            failure_ttl=FAILURE_KEPT_S,
            meta=job_origin(),
        )


def forget_idle_check(redis: Redis, project_id: int) -> None:
    """Let the next change schedule a check again; the check itself calls this first."""
    redis.delete(_idle_key(project_id))


def _idle_key(project_id: int) -> str:
    return f"captioner:idle-check:{project_id}"


def retrain_if_idle(project_id: int) -> str | None:
    """RQ job: start a retraining if the project's newest change is RETRAIN_IDLE_S old, else check again then.

    Returns:
        the retraining's job id, or None if no correction is due, the project is not quiet yet, it is paused, or its
        memory teaches it and too few corrections wait.
    """
    settings = Settings.from_env()
    redis = connect_patiently(settings.redis_url)
    forget_idle_check(redis, project_id)
    waiting = read_waiting(redis, project_id)
    due = due_corrections(redis, project_id, waiting)
    if not due or (waiting.is_taught_by_memory and not should_retrain(due, _needed(settings, waiting))):
        return None
    quiet_s = waiting.quiet_s or 0.0
    if not is_quiet(quiet_s, settings.retrain_idle_s):
        schedule_idle_check(redis, settings, project_id, delay_s=settings.retrain_idle_s - quiet_s)
        return None
    with suppress(JobError):  # paused: the corrections wait
        reason = f"{waiting.count} corrections wait, quiet for {quiet_s:.0f} s"
        return enqueue_retraining(redis, settings, project_id, reason)
    return None
