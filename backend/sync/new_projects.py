"""Projects that connect: Label Studio leaves our credentials out of their webhooks, so a job adds them."""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context

from redis import Redis, RedisError

from worker.queue.backend_jobs import enqueue_backend_job
from worker.settings import Settings

logger = logging.getLogger(__name__)

AGAIN_AFTER_S = 3600.0
"""A project may be connected anew; the job changes nothing where all is well."""


class NewProjects:
    """Remembers which projects asked for `/setup` lately; safe to share between threads."""

    def __init__(self, settings: Settings, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._met: dict[int, float] = {}
        has_credentials = settings.basic_auth_user is not None or settings.webhook_secret is not None
        self._can_help = has_credentials and settings.label_studio_api_key is not None

    def meet(self, project_id: int) -> threading.Thread | None:
        """Enqueue `connect_project` beside the request: `/setup` waits for nobody, and a Redis may be slow."""
        now = self._clock()
        if not self._can_help or now - self._met.get(project_id, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
            return None
        self._met[project_id] = now
        run_here = copy_context().run  # the job goes back to this request
        thread = threading.Thread(target=run_here, args=(self._enqueue, project_id), name="new-project", daemon=True)
        thread.start()
        return thread

    def _enqueue(self, project_id: int) -> None:
        try:
            enqueue_backend_job(self._redis, "connect_project", project_id)
        except RedisError as problem:
            self._met.pop(project_id, None)  # the next /setup tries again
            logger.warning("webhook not looked after project=%s problem=%s", project_id, problem)
