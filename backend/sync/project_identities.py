"""A project is known by its id and the time of its creation: Label Studio may give an id to a new project.

Its title is kept too, for people.
"""

import logging
from collections.abc import Callable

from redis import Redis, RedisError

from model.errors import StoreError
from model.store import Store
from worker.feedback.project_data import begin_anew_if_new, note_title

logger = logging.getLogger(__name__)


class ProjectIdentities:
    """Notices a project that has the id of an earlier one; safe to share between threads."""

    def __init__(self, redis: Redis, store: Store, forget: Callable[[int], None]) -> None:
        """Take the place where identities are kept.

        Args:
            redis: holds the corrections.
            store: holds the versions.
            forget: drops what this process holds of a project.
        """
        self._redis, self._store, self._forget = redis, store, forget
        self._created: dict[int, int] = {}

    def note_title(self, project_id: int, title: str) -> None:
        """Remember the title of a project. If that fails, the next call tries again."""
        try:
            note_title(self._redis, project_id, title)
        except RedisError as problem:
            logger.warning("title not kept project=%s problem=%s", project_id, problem)

    def note(self, project_id: int, created: int | None) -> None:
        """Retire what is kept of an earlier project with this id. If that fails, the next call tries again.

        Args:
            project_id: Label Studio's.
            created: Unix time of its creation; None if that is not known.
        """
        if created is None or self._created.get(project_id, 0) >= created:
            return
        try:
            begin_anew_if_new(self._redis, self._store, project_id, created)
        except (RedisError, StoreError) as problem:
            logger.warning("earlier project not retired project=%s problem=%s", project_id, problem)
        else:
            self._created[project_id] = created
            self._forget(project_id)  # another process may have retired the earlier project
