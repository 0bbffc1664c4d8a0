"""Projects that connect: Label Studio leaves our credentials out of their webhooks, so a job adds them."""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context

from redis import Redis, RedisError

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import find_connection
from backend.label_studio.webhooks import find_fault, mend
from model.errors import LabelStudioError
from worker.queue.backend_jobs import enqueue_backend_job
from worker.settings import Settings

logger = logging.getLogger(__name__)

AGAIN_AFTER_S = 3600.0
"""A project may be connected again. The job changes nothing where the webhook is right."""


class NewProjects:
    """Enqueues a check of the webhook for each project that asks for `/setup`; safe to share between threads."""

    def __init__(self, settings: Settings, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._checked_at: dict[int, float] = {}
        has_credentials = settings.basic_auth_user is not None or settings.webhook_secret is not None
        self._can_help = has_credentials and settings.label_studio_api_key is not None

    def check_webhook(self, project_id: int) -> threading.Thread | None:
        """Enqueue `connect_project` once an hour, in a thread, because `/setup` must not wait for a slow Redis."""
        now = self._clock()
        if not self._can_help or now - self._checked_at.get(project_id, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
            return None
        self._checked_at[project_id] = now
        run_here = copy_context().run  # the job carries the id of this request
        thread = threading.Thread(target=run_here, args=(self._enqueue, project_id), name="new-project", daemon=True)
        thread.start()
        return thread

    def _enqueue(self, project_id: int) -> None:
        try:
            enqueue_backend_job(self._redis, "connect_project", project_id)
        except RedisError as problem:
            self._checked_at.pop(project_id, None)  # the next /setup tries again
            logger.warning("webhook not checked project=%s problem=%s", project_id, problem)


def add_credentials(client: LabelStudioClient, redis: Redis, settings: Settings, project_id: int) -> bool:
    """Add our credentials to the project's webhook if it lacks them; return whether the webhook was changed.

    Raises:
        LabelStudioError: the project has no backend yet, its webhook has another fault, or Label Studio refuses.
    """
    connection = find_connection(client, settings, client.project(project_id))
    if connection is None:
        raise LabelStudioError(f"project {project_id} has no backend yet; Label Studio stores it after /setup")
    fault = find_fault(client.webhooks(project_id), connection.backends, connection.ours, settings)
    if fault is None:
        return False
    if not fault.lacks_credentials:
        # Somebody may have changed the webhook on purpose, so only a person decides.
        raise LabelStudioError(f"the webhook of project {project_id} {fault.reason}: captioner doctor --repair")
    mend(client, project_id, connection.ours, fault, settings)
    logger.info("webhook mended project=%s url=%s", project_id, connection.ours.url)
    # We refused the events that came before, so their annotations are pulled.
    enqueue_backend_job(redis, "collect_corrections", project_id)
    return True
