"""The check for quiet, in a file of its own: it starts without torch, so it costs little to ask often."""

import logging
from contextlib import suppress

from model.errors import JobError
from worker.corrections import CorrectionInbox
from worker.policy import is_quiet
from worker.queues import (
    connect_patiently,
    due_corrections,
    enqueue_retraining,
    forget_idle_check,
    schedule_idle_check,
)
from worker.settings import Settings

logger = logging.getLogger(__name__)


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
