"""Jobs that speak to Label Studio; RQ workers run them by name, with JSON arguments, and may run them twice.

Each starts in a process of its own, so what needs torch (2 s to import) is imported where it is used.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from redis import Redis
from rq import get_current_job

from backend.label_studio.client import LabelStudioClient, Project
from backend.label_studio.webhooks import find_fault, mend
from backend.protocol.label_config import has_captions
from backend.sync.pull import Reconciliation, reconcile
from model.errors import CaptionerError, LabelStudioError
from worker.feedback.corrections import CorrectionInbox
from worker.queue.backend_jobs import enqueue_backend_job
from worker.queue.periodic_pull import schedule_pull
from worker.queue.trigger import retrain_when_due
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
REST_IN_S = 3
"""Long enough for a worker to become free: it would take the rest before a retraining, which is in its second queue."""


def collect_corrections(project_id: int) -> dict[str, int]:
    """Pull the annotations that webhooks missed, and make the features that training will read.

    An image that cannot be had never stops the rest. When Label Studio cannot be asked, features are still made from
    what is here, and the job fails at its end, so that the reason is seen.

    Raises:
        LabelStudioError: the annotations could not be pulled.
        LabelConfigError: the project's labeling config has no caption.
    """
    settings = Settings.from_env()
    redis, client = connect_patiently(settings.redis_url), LabelStudioClient.from_settings(settings)
    outcome: dict[str, int] = {}
    try:
        if client is None:
            logger.info("annotations not pulled project=%s reason=LABEL_STUDIO_API_KEY is not set", project_id)
        else:
            outcome |= asdict(_pull(client, redis, settings, client.project(project_id)))
    finally:
        outcome |= _complete_features(client, redis, settings, project_id)
    return outcome


def pull_projects() -> dict[str, int]:
    """Pull the annotations of every project that has a backend connected, and see to the next such pull.

    A project that cannot be pulled keeps no other from it, and is tried again the next time. Features are left to the
    training that a change leads to. A version that is accepted less gives its place back, even if training is paused.

    Returns:
        how many projects had changed, had not, could not be pulled, or have nothing to do with us.

    Raises:
        LabelStudioError: not even the projects could be listed.
    """
    settings = Settings.from_env()
    redis, client = connect_patiently(settings.redis_url), LabelStudioClient.from_settings(settings)
    if client is None:
        logger.info("annotations not pulled reason=LABEL_STUDIO_API_KEY is not set")
        return {}
    try:
        # Listed anew each time, so a project that was deleted in Label Studio is simply no longer there.
        outcomes = Counter(_pull_if_connected(client, redis, settings, project) for project in client.projects())
    finally:
        schedule_pull(redis, settings)
    told = [outcomes[name] for name in ("changed", "unchanged", "failed", "foreign")]
    logger.info("projects pulled changed=%s unchanged=%s failed=%s foreign=%s", *told)
    return dict(outcomes)


def refresh_predictions(project_id: int, version: str, after_id: int = 0) -> dict[str, Any]:
    """Write the version's suggestions into Label Studio for tasks nobody has annotated, as long as it serves.

    After a minute another such job goes on, behind what waits by then.

    Args:
        project_id: Label Studio's.
        version: whose suggestions to write.
        after_id: of the task to go on behind; 0 begins with the first one.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; a retry goes on where this one ended.
        LabelConfigError: the project's labeling config has no caption.
    """
    settings = Settings.from_env()
    client = LabelStudioClient.from_settings(settings)
    if client is None or not settings.refresh_predictions:
        reason = "REFRESH_PREDICTIONS is false" if client else "LABEL_STUDIO_API_KEY is not set"
        logger.info("predictions not refreshed project=%s version=%s reason=%s", project_id, version, reason)
        return {"refreshed": 0, "stopped": reason}

    from backend.captioning.services import make_services
    from backend.sync.refresh import refresh
    from model.captioner import prefer_fast_products

    prefer_fast_products()
    services = make_services(settings)
    report = refresh(client, services, project_id, version, after_id, _progress("refreshing"))
    if report.rest_after is not None:
        rest = (project_id, version, report.rest_after)
        enqueue_backend_job(services.redis, "refresh_predictions", *rest, delay_s=REST_IN_S)
    logger.info(
        "predictions refreshed project=%s version=%s refreshed=%s current=%s failed=%s stopped=%s",
        project_id,
        version,
        report.refreshed,
        report.current,
        report.failed,
        report.stopped,
    )
    return dict(vars(report))


def connect_project(project_id: int) -> dict[str, Any]:
    """Give the webhook of a project that was just connected our credentials, which Label Studio leaves out.

    Raises:
        LabelStudioError: the backend or its webhook is not there yet (Label Studio asks for `/setup` first and
            stores both afterwards; a retry finds them), or Label Studio refuses.
    """
    settings = Settings.from_env()
    client = LabelStudioClient.from_settings(settings)
    if client is None:
        logger.info("webhook not looked at project=%s reason=LABEL_STUDIO_API_KEY is not set", project_id)
        return {"mended": False}

    from backend.label_studio.connection import find_connection

    connection = find_connection(client, settings, client.project(project_id))
    if connection is None:
        raise LabelStudioError(f"project {project_id} has no backend yet; Label Studio stores it after /setup")
    fault = find_fault(client.webhooks(project_id), connection.backends, connection.ours, settings)
    if fault is not None and not fault.lacks_credentials:
        # Somebody may have meant it, so only a person decides.
        raise LabelStudioError(f"the webhook of project {project_id} {fault.reason}: captioner doctor --repair")
    if fault is not None:
        mend(client, project_id, connection.ours, fault, settings)
        logger.info("webhook mended project=%s url=%s", project_id, connection.ours.url)
        # What was annotated before now was refused.
        enqueue_backend_job(connect_patiently(settings.redis_url), "collect_corrections", project_id)
    return {"mended": fault is not None}


def _pull_if_connected(client: LabelStudioClient, redis: Redis, settings: Settings, project: Project) -> str:
    try:
        if not (has_captions(project.label_config) and client.connected_backends(project.project_id)):
            return "foreign"
        done = _pull(client, redis, settings, project)
        _look_back(redis, settings, project.project_id)
    # Beside our own errors those of reading JSON that no Label Studio we know would send.
    except (CaptionerError, KeyError, TypeError, ValueError) as problem:
        logger.warning("annotations not pulled project=%s problem=%r", project.project_id, problem)
        return "failed"
    return "changed" if done.changed else "unchanged"


def _pull(client: LabelStudioClient, redis: Redis, settings: Settings, project: Project) -> Reconciliation:
    done = reconcile(client, redis, project)
    # Without a change too: a retraining that took corrections may have ended without learning them.
    retrain_when_due(redis, settings, project.project_id)
    return done


def _look_back(redis: Redis, settings: Settings, project_id: int) -> None:
    """See whether suggestions are accepted less, if anything was judged that no training has looked at."""
    if CorrectionInbox(redis).waiting(project_id):
        from worker.learning.rollback import look_back

        job = get_current_job()
        look_back(redis, settings, project_id, job.id if job else "by-hand")


def _complete_features(
    client: LabelStudioClient | None, redis: Redis, settings: Settings, project_id: int
) -> dict[str, int]:
    from backend.images.backfill import complete_features

    report = complete_features(client, redis, settings, project_id, _progress("features"))
    logger.info(
        "features completed project=%s known=%s made=%s failed=%s left=%s",
        project_id,
        report.known,
        report.made,
        report.failed,
        report.left,
    )
    return dict(vars(report))


def _progress(phase: str) -> Callable[[int, int], None]:
    """Return a function that writes {"phase", "done", "total"} into the job's meta, twice a second at most."""
    job, written_at = get_current_job(), 0.0

    def write(done: int, total: int) -> None:
        nonlocal written_at
        if job is None or (done < total and time.monotonic() - written_at < PROGRESS_EVERY_S):
            return
        written_at = time.monotonic()
        job.meta |= {"phase": phase, "done": done, "total": total}
        job.save_meta()

    return write
