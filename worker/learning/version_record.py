"""The record of a version: publish or refuse it, and what follows from it."""

import logging
from dataclasses import asdict
from typing import Any

from redis import Redis

from model.registry import ModelRegistry, ModelVersion
from worker.audit import THE_WORKER, AuditLog
from worker.feedback.corrections import CorrectionInbox
from worker.learning.candidate import Attempt
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.job_metrics import JobCounts
from worker.request_id import current_request_id
from worker.settings import Settings

logger = logging.getLogger(__name__)


def find_unfinished(inbox: CorrectionInbox, registry: ModelRegistry, project_id: int) -> ModelVersion | None:
    """Return the newest version if the worker that recorded it was lost before `finish`.

    One that is published and does not serve is left alone: perhaps it never did, so its corrections are trained again.
    """
    newest = registry.newest(project_id)
    if newest is None or newest.metrics.get("change_number", 0) <= inbox.trained_number(project_id):
        return None
    return newest if not newest.published or registry.serving(project_id) == newest.name else None


def finish(redis: Redis, settings: Settings, version: ModelVersion) -> None:
    """See to what follows from a version that is recorded; what must not get lost comes first."""
    if version.published:
        enqueue_refresh(redis, settings, version.project_id, version.name)
    CorrectionInbox(redis).mark_trained(version.project_id, version.metrics["change_number"])
    decided = "version published" if version.published else "version refused"
    AuditLog(redis).write(THE_WORKER, decided, version.project_id, version=version.name, reason=version.decision)
    JobCounts(redis).gate_decided(version.published, version.project_id)


def record(
    registry: ModelRegistry, project_id: int, made: Attempt, change_number: int, parent: str, reason: str
) -> ModelVersion:
    """Publish or refuse the candidate, with all that led to the decision."""
    trial, dataset = made.trial, made.dataset
    keep = registry.publish if made.decision.publish else registry.refuse
    return keep(
        project_id,
        made.candidate,
        parent=parent,
        metrics={
            "metric": "loss in nats per word",
            "new": trial.new.summary(),
            "old": trial.old.summary(),
            "anchors": trial.anchors.summary(),
            "relevance": {name: asdict(found) for name, found in trial.relevances().items()},
            "training": asdict(made.training),
            "new_words": list(made.new_words),
            "samples": made.samples,
            "systematic_edits": [str(edit) for edit in dataset.edits],
            "corrections_left_out": dict(dataset.left_out),
            "known_states": dataset.known_states,
            "change_number": change_number,
            "trigger": reason,
            "request": current_request_id(),
            "requests": dataset.requests,
        },
        corrections=dataset.corrections,
        decision=made.decision.reason,
    )


def outcome(version: ModelVersion, made: Attempt) -> dict[str, Any]:
    """Return what came of a retraining, as JSON, and say it in the log."""
    told = {
        "project_id": version.project_id,
        "version": version.name,
        "published": version.published,
        "decision": version.decision,
        "corrections": len(made.dataset.learned),
        "held_out": len(made.dataset.held_out),
        "left_out": dict(made.dataset.left_out),
        "training_s": round(made.training.seconds, 1),
    }
    logger.info(
        "retraining done project=%s version=%s published=%s corrections=%s held_out=%s training_s=%s requests=%s "
        "decision=%r",
        version.project_id,
        version.name,
        version.published,
        told["corrections"],
        told["held_out"],
        told["training_s"],
        ",".join(made.dataset.requests),
        version.decision,
    )
    return told
