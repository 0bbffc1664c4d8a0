"""The record of a version: publish or refuse it, and do what follows from that."""

import logging
from dataclasses import asdict
from typing import Any

from redis import Redis

from model.registry import ModelRegistry, ModelVersion
from worker.audit import THE_WORKER, AuditLog
from worker.feedback.waiting import mark_trained, trained_number
from worker.learning.candidate import Candidate
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.job_metrics import JobCounts
from worker.request_id import current_request_id
from worker.settings import Settings

logger = logging.getLogger(__name__)


def find_unfinished(redis: Redis, registry: ModelRegistry, project_id: int) -> ModelVersion | None:
    """Return the newest version if the worker that recorded it was lost before `finish`.

    A version that is published and not served is left alone: it may never have served, so its corrections are trained
    on again.
    """
    newest = registry.newest(project_id)
    if newest is None or newest.metrics.get("change_number", 0) <= trained_number(redis, project_id):
        return None
    return newest if not newest.published or registry.serving(project_id) == newest.name else None


def finish(redis: Redis, settings: Settings, version: ModelVersion) -> None:
    """Do what follows from a recorded version; the first steps are those that must not get lost."""
    if version.published:
        enqueue_refresh(redis, settings, version.project_id, version.name)
    mark_trained(redis, version.project_id, version.metrics["change_number"])
    action = "version published" if version.published else "version refused"
    AuditLog(redis).write(THE_WORKER, action, version.project_id, version=version.name, reason=version.decision)
    JobCounts(redis).gate_decided(version.published, version.project_id)


def record(
    registry: ModelRegistry,
    project_id: int,
    candidate: Candidate,
    change_number: int,
    parent: str,
    reason: str,
) -> ModelVersion:
    """Publish or refuse the candidate, with everything that led to the decision."""
    trial, dataset, decision = candidate.trial, candidate.dataset, candidate.decision
    publish_or_refuse = registry.publish if decision.publish else registry.refuse
    return publish_or_refuse(
        project_id,
        candidate.captioner,
        parent=parent,
        metrics={
            "metric": "loss in nats per word",
            "plain_decision": decision.plain,
            "new": trial.new.summary(),
            "old": trial.old.summary(),
            "anchors": trial.anchors.summary(),
            "relevance": {name: asdict(relevance) for name, relevance in trial.relevances().items()},
            "writing": trial.writing.summary() if trial.writing else None,
            "training": asdict(candidate.training) | {"alpha": candidate.alpha},
            "new_words": list(candidate.new_words),
            "samples": candidate.samples,
            "systematic_edits": [str(edit) for edit in dataset.edits],
            "corrections_left_out": dict(dataset.left_out),
            "known_states": dataset.known_states,
            "change_number": change_number,
            "trigger": reason,
            "request": current_request_id(),
            "requests": dataset.requests,
        },
        corrections=dataset.corrections,
        decision=decision.reason,
    )


def outcome(version: ModelVersion, candidate: Candidate) -> dict[str, Any]:
    """Return the outcome of a retraining as JSON, and log it."""
    dataset = candidate.dataset
    result = {
        "project_id": version.project_id,
        "version": version.name,
        "published": version.published,
        "decision": version.decision,
        "corrections": len(dataset.learned),
        "held_out": len(dataset.held_out),
        "left_out": dict(dataset.left_out),
        "training_s": round(candidate.training.seconds, 1),
    }
    logged = ("project_id", "version", "published", "corrections", "held_out", "training_s")
    logger.info(
        "retraining done project=%s version=%s published=%s corrections=%s held_out=%s training_s=%s requests=%s "
        "decision=%r",
        *(result[name] for name in logged),
        ",".join(dataset.requests),
        version.decision,
    )
    return result
