"""What follows from how annotators judge suggestions: a version gives its place back, and scores get their meaning."""

import logging

from redis import Redis, RedisError

from model.errors import CaptionerError
from model.registry import ModelRegistry
from model.store import Store
from worker.audit import THE_WORKER, AuditLog
from worker.feedback.ledger_records import LedgerRecords
from worker.feedback.score_calibration import ASKED, fit_calibration, write_calibration
from worker.feedback.totals import read_acceptance
from worker.policy import is_accepted_less
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.retraining import only_training
from worker.settings import Settings

logger = logging.getLogger(__name__)


def roll_back_if_accepted_less(
    redis: Redis, registry: ModelRegistry, settings: Settings, project_id: int
) -> str | None:
    """Let the version before serve again if annotators accept less of what this one suggests; returns its name.

    Only a version that a retraining published is judged: what a person chose stays.
    """
    serving, before = registry.serving(project_id), registry.succeeded(project_id)
    if before is None:
        return None
    found = read_acceptance(redis, project_id, [serving, before])
    now, then = found[serving], found[before]
    margin = settings.rollback_margin / 100
    if not is_accepted_less(now.accepted, now.judged, then.accepted, then.judged, margin):
        return None
    why = f"{serving} was accepted {now.accepted} times of {now.judged}, {before} {then.accepted} of {then.judged}"
    registry.rollback(project_id, by=why)
    logger.warning("version rolled back project=%s version=%s serving=%s reason=%r", project_id, serving, before, why)
    AuditLog(redis).write(THE_WORKER, "version rolled back", project_id, version=before, before=serving, reason=why)
    enqueue_refresh(redis, settings, project_id, before)
    return before


def look_back(redis: Redis, settings: Settings, project_id: int, job_id: str) -> None:
    """Roll back if suggestions are accepted less, where no training may come to do so: retraining can be paused.

    One that runs has looked itself, and is not disturbed.
    """
    with only_training(redis, project_id, job_id) as is_ours:
        if is_ours:
            registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
            roll_back_if_accepted_less(redis, registry, settings, project_id)


def calibrate(redis: Redis, store: Store, project_id: int) -> None:
    """Let the scores of suggestions mean what annotators made of those so far.

    If that fails, they go on meaning what they did: a version that was just recorded must not fail with it.
    """
    try:
        _fit_and_write(redis, store, project_id)
    except (CaptionerError, RedisError, ValueError, TypeError) as problem:  # never the job's time limit
        logger.warning("scores not calibrated project=%s problem=%s", project_id, problem)


def _fit_and_write(redis: Redis, store: Store, project_id: int) -> None:
    calibration = fit_calibration(LedgerRecords(redis).sample(project_id, ASKED))
    if calibration is None:
        return
    write_calibration(store, project_id, calibration)
    logger.info(
        "scores calibrated project=%s judged=%s error=%.3f before=%.3f",
        project_id,
        calibration.judged,
        calibration.error,
        calibration.error_before,
    )
