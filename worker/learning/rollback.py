"""Consequences of how annotators judge suggestions: a version may be rolled back, and scores are calibrated."""

import logging

from redis import Redis, RedisError
from rq import get_current_job

from model.errors import CaptionerError
from model.registry import ModelRegistry
from model.store import Store
from worker.audit import THE_WORKER, AuditLog
from worker.feedback.score_calibration import renew_calibrations
from worker.feedback.totals import read_acceptance
from worker.policy import is_accepted_less
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.job_progress import BY_HAND
from worker.queue.retraining import only_training
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)


def look_back(project_id: int) -> str | None:
    """RQ job: roll back if annotators accept less, where no training may come to do so: retraining can be paused.

    A training that runs has done this itself and is not disturbed. Returns the name of the version that is served
    again, or None.
    """
    settings, job = Settings.from_env(), get_current_job()
    redis = connect_patiently(settings.redis_url)
    with only_training(redis, project_id, job.id if job else BY_HAND) as is_ours:
        if not is_ours:
            return None
        registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
        return roll_back_if_accepted_less(redis, registry, settings, project_id)


def roll_back_if_accepted_less(
    redis: Redis, registry: ModelRegistry, settings: Settings, project_id: int
) -> str | None:
    """Let the version before serve again if annotators accept fewer suggestions of the served one; return its name.

    Only a version that a retraining published is judged. A version that a person promoted stays.
    """
    serving, before = registry.serving(project_id), registry.succeeded(project_id)
    if before is None:
        return None
    acceptance = read_acceptance(redis, project_id, [serving, before])
    now, then = acceptance[serving], acceptance[before]
    margin = settings.rollback_margin / 100
    if not is_accepted_less(now.accepted, now.judged, then.accepted, then.judged, margin):
        return None
    reason = (
        f"Annotators accepted {now.accepted} of {now.judged} suggestions of {serving}, "
        f"but {then.accepted} of {then.judged} of {before}; the earlier version is served again."
    )
    registry.rollback(project_id, by=reason)
    logger.warning(
        "version rolled back project=%s version=%s serving=%s reason=%r", project_id, serving, before, reason
    )
    AuditLog(redis).write(THE_WORKER, "version rolled back", project_id, version=before, before=serving, reason=reason)
    enqueue_refresh(redis, settings, project_id, before)
    return before


def calibrate(redis: Redis, store: Store, project_id: int) -> None:
    """Fit the scores of suggestions to how often annotators accepted such suggestions so far.

    If that fails, scores keep their meaning: a version that was just recorded must not fail with it.
    """
    try:
        renew_calibrations(redis, store, project_id)
    except (CaptionerError, RedisError, ValueError, TypeError) as problem:  # never the job's time limit
        logger.warning("scores not calibrated project=%s problem=%s", project_id, problem)
