"""Projects that connect: a job proves that their backend is ours, and adds our credentials to their webhooks, because
Label Studio leaves them out."""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context

from redis import Redis, RedisError

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import find_connection, proved_addresses
from backend.label_studio.webhooks import credentials, find_fault, mend
from model.errors import LabelStudioError
from worker.feedback.left_projects import come_back
from worker.queue.backend_jobs import enqueue_backend_job
from worker.settings import Settings

logger = logging.getLogger(__name__)

SOON_S = 10.0
AGAIN_AFTER_S = 3600.0
"""A project may be connected again. The job changes nothing where the webhook is right."""


class NewProjects:
    """Enqueues `connect_project` for each project that asks for `/setup`; safe to share between threads."""

    def __init__(self, settings: Settings, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._checked_at: dict[int, float] = {}
        self._can_help = settings.label_studio_api_key is not None

    def welcome(self, project_id: int, *, had_left: bool = False) -> threading.Thread | None:
        """Enqueue `connect_project` in a thread, because `/setup` must not wait for a slow Redis.

        A project that had left is welcomed at once, others once an hour.
        """
        now, pause_s = self._clock(), SOON_S if had_left else AGAIN_AFTER_S
        if not self._can_help or now - self._checked_at.get(project_id, -AGAIN_AFTER_S) < pause_s:
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

    A project that had left is ours again.

    Raises:
        LabelStudioError: no backend of the project has proved to be ours, its webhook has another fault, or Label
            Studio refuses.
    """
    connection = find_connection(client, redis, project_id)
    if connection.ours is None:
        raise LabelStudioError(
            f"project {project_id} has no model that leads here yet; Label Studio stores a model after /setup"
        )
    if come_back(redis, project_id):
        logger.info("project is ours again project=%s", project_id)
    if not credentials(settings):
        return False
    former = proved_addresses(redis, project_id)
    fault = find_fault(client.webhooks(project_id), connection.ours, former, settings)
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
