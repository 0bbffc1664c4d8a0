"""Jobs that talk to Label Studio. RQ workers call them by name, with JSON arguments, and may run them twice.

Each job starts in a process of its own, so modules that import torch (2 s) are imported where they are used.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from redis import Redis
from rq import get_current_job

from backend.label_studio.client import LabelStudioClient
from worker.queue.backend_jobs import begin_look_alikes
from worker.queue.periodic_pull import schedule_pull
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)

NO_KEY = "LABEL_STUDIO_API_KEY is not set"
PROGRESS_EVERY_S = 0.5


def collect_corrections(project_id: int) -> dict[str, int]:
    """Pull the annotations that webhooks missed, and compute the features that training will read.

    An image that cannot be read does not stop the others. If Label Studio does not answer, features are computed for
    the corrections that are here, and the job fails at its end with the reason.

    Raises:
        LabelStudioError: the annotations could not be pulled.
        LabelConfigError: the project's labeling config has no caption.
    """
    from backend.images.backfill import complete_features
    from backend.sync.connected_projects import REMOVED, is_ours, pull_project

    settings, redis, client = _open()
    outcome: dict[str, int] = {}
    try:
        if client is None:
            logger.info("annotations not pulled project=%s reason=%s", project_id, NO_KEY)
        elif not is_ours(client, redis, project_id):
            logger.info("annotations not pulled project=%s reason=%s", project_id, REMOVED)
            return outcome
        else:
            outcome |= asdict(pull_project(client, redis, settings, client.project(project_id)))
    finally:
        outcome |= asdict(complete_features(client, redis, settings, project_id, _progress("features")))
    return outcome


def pull_projects() -> dict[str, int]:
    """Pull the annotations of every connected project, and schedule the next such pull.

    Raises:
        LabelStudioError: the projects could not be listed.
    """
    from backend.sync.connected_projects import pull_connected_projects

    settings, redis, client = _open()
    if client is None:
        logger.info("annotations not pulled reason=%s", NO_KEY)
        return {}
    try:
        return pull_connected_projects(client, redis, settings)
    finally:
        schedule_pull(redis, settings)


def refresh_predictions(project_id: int, version: str, after_id: int = 0) -> dict[str, Any]:
    """Write the version's suggestions into Label Studio for tasks nobody has annotated, as long as it serves.

    After a minute another such job goes on, so that other waiting jobs get their turn.

    Args:
        project_id: Label Studio's id.
        version: the version that makes the suggestions.
        after_id: id of the last refreshed task; 0 begins with the first task.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; a retry goes on where this job ended.
        LabelConfigError: the project's labeling config has no caption.
    """
    settings, redis, client = _open()
    if client is None or not settings.refresh_predictions:
        reason = "REFRESH_PREDICTIONS is false" if client else NO_KEY
        logger.info("predictions not refreshed project=%s version=%s reason=%s", project_id, version, reason)
        return {"refreshed": 0, "stopped": reason}

    from backend.captioning.services import make_services
    from backend.sync.connected_projects import REMOVED, is_ours
    from backend.sync.refresh import refresh

    if not is_ours(client, redis, project_id):
        return {"refreshed": 0, "stopped": REMOVED}
    return asdict(refresh(client, make_services(settings), project_id, version, after_id, _progress("refreshing")))


def refresh_look_alikes(project_id: int) -> dict[str, Any]:
    """Write suggestions into Label Studio again for tasks that look like images whose corrections changed.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; a retry does it again.
        LabelConfigError: the project's labeling config has no caption.
    """
    settings, redis, client = _open()
    begin_look_alikes(redis, project_id)
    if client is None or not settings.refresh_predictions:
        reason = "REFRESH_PREDICTIONS is false" if client else NO_KEY
        logger.info("look-alikes not refreshed project=%s reason=%s", project_id, reason)
        return {"refreshed": 0, "stopped": reason}

    from backend.captioning.services import make_services
    from backend.sync.connected_projects import REMOVED, is_ours
    from backend.sync.refresh import refresh_look_alikes as refresh

    if not is_ours(client, redis, project_id):
        return {"refreshed": 0, "stopped": REMOVED}
    return asdict(refresh(client, make_services(settings), project_id, _progress("refreshing")))


def connect_project(project_id: int) -> dict[str, Any]:
    """Add our credentials to the webhook of a project that was just connected; Label Studio leaves them out.

    Raises:
        LabelStudioError: the backend or its webhook is not there yet (Label Studio asks for `/setup` first and
            stores both afterwards; a retry finds them), or Label Studio refuses.
    """
    from backend.sync.new_projects import add_credentials

    settings, redis, client = _open()
    if client is None:
        logger.info("webhook not checked project=%s reason=%s", project_id, NO_KEY)
        return {"mended": False}
    return {"mended": add_credentials(client, redis, settings, project_id)}


def _open() -> tuple[Settings, Redis, LabelStudioClient | None]:
    """Return the settings, Redis and Label Studio; no Label Studio where LABEL_STUDIO_API_KEY is not set."""
    settings = Settings.from_env()
    return settings, connect_patiently(settings.redis_url), LabelStudioClient.from_settings(settings)


def _progress(phase: str) -> Callable[[int, int], None]:
    """Return a function that writes {"phase", "done", "total"} into the job's meta, at most twice a second."""
    job, written_at = get_current_job(), 0.0

    def write(done: int, total: int) -> None:
        nonlocal written_at
        if job is None or (done < total and time.monotonic() - written_at < PROGRESS_EVERY_S):
            return
        written_at = time.monotonic()
        job.meta |= {"phase": phase, "done": done, "total": total}
        job.save_meta()

    return write
