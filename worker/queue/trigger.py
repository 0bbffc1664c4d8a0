"""When a retraining starts: enough corrections wait, or some wait and the project has been quiet.

It needs no torch, so the check for quiet costs little.
"""

import logging
import math
from contextlib import suppress
from datetime import timedelta

from redis import Redis

from model.errors import JobError
from worker.feedback.corrections import CorrectionInbox
from worker.policy import is_quiet, should_retrain
from worker.queue.job_origin import job_origin
from worker.queue.job_state import FAILURE_KEPT_S, RETRAIN_QUEUE, is_pending, new_job_id, queue, text_or_none
from worker.queue.retraining import enqueue_retraining, redis_now, retraining_key
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)

CHECK_LIMIT_S = 60
REPEAT_AFTER_S = 900
"""How long corrections rest at least when the retraining that took them ended without learning them."""


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
    running, began = map(text_or_none, redis.hmget(retraining_key(project_id), "running", "began"))
    if running is not None and is_pending(redis, running):
        return False
    if began is None:
        return True
    rest_s = max(REPEAT_AFTER_S, (int(began) - CorrectionInbox(redis).change_number(project_id)) / 1e6)
    return (redis_now(redis) - int(began)) / 1e6 >= rest_s


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
            job_id=new_job_id("idle-check", project_id),
            job_timeout=CHECK_LIMIT_S,
            result_ttl=CHECK_LIMIT_S,
            failure_ttl=FAILURE_KEPT_S,
            meta=job_origin(),
        )


def forget_idle_check(redis: Redis, project_id: int) -> None:
    """Let the next change schedule a check again; the check calls this first."""
    redis.delete(_idle_key(project_id))


def _idle_key(project_id: int) -> str:
    return f"captioner:idle-check:{project_id}"


def retrain_if_idle(project_id: int) -> str | None:
    """RQ job: start a retraining if the project's newest change is RETRAIN_IDLE_S old, else look again then.

    Returns:
        the retraining's job id, or None when no correction is due, when it is not quiet yet, or when the project is
        paused.
    """
    settings = Settings.from_env()
    redis = connect_patiently(settings.redis_url)
    inbox = CorrectionInbox(redis)
    forget_idle_check(redis, project_id)
    if not due_corrections(redis, project_id):
        return None
    waiting, quiet_s = inbox.waiting(project_id), inbox.quiet_s(project_id) or 0.0
    if not is_quiet(quiet_s, settings.retrain_idle_s):
        schedule_idle_check(redis, settings, project_id, delay_s=settings.retrain_idle_s - quiet_s)
        return None
    with suppress(JobError):  # paused: the corrections wait
        return enqueue_retraining(redis, settings, project_id, f"{waiting} corrections wait, quiet for {quiet_s:.0f} s")
    return None
