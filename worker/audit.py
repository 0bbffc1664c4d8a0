"""The audit log: actions of people, and decisions of the worker, with their times.

    captioner:audit   stream   an entry for each action; never changed

If Redis does not take an entry, only the log of the process has it: no action waits for its entry.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis, RedisError

from worker.redis_client import connect

logger = logging.getLogger(__name__)

AUDIT_KEY = "captioner:audit"
THE_WORKER = "the worker"
"""The name for actions that the worker takes by itself."""


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """An action."""

    entry_id: str
    """Position in the stream: later entries have higher ids."""
    at: str
    """ISO 8601, UTC."""
    who: str
    """A person's name, a command such as `captioner promote (command line)`, or `the worker`."""
    action: str
    """The action in the past tense."""
    project_id: int | None
    details: Mapping[str, Any]


class AuditLog:
    """Writes and reads the entries."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def write(self, who: str, action: str, project_id: int | None = None, **details: Any) -> None:
        """Append an entry; the details must be JSON."""
        logger.info("audit who=%r action=%r project=%s details=%r", who, action, project_id, details)
        entry = {"who": who, "action": action, "project_id": project_id, "details": details}
        try:
            self._redis.xadd(AUDIT_KEY, {"entry": json.dumps(entry, ensure_ascii=False)})
        except RedisError as problem:
            logger.warning("audit entry not stored who=%r action=%r problem=%s", who, action, problem)

    def read(self, before: str | None = None, count: int = 50) -> list[AuditEntry]:
        """Return the newest entries, newest first; with `before`, only entries older than that entry_id."""
        newest = "+" if before is None else f"({before}"
        answer = self._redis.xrevrange(AUDIT_KEY, max=newest, count=count)
        entries = cast(list[tuple[bytes, dict[bytes, bytes]]], answer)
        return [_entry(entry_id.decode(), json.loads(fields[b"entry"])) for entry_id, fields in entries]


def write_once(redis_url: str, who: str, action: str, project_id: int | None = None, **details: Any) -> None:
    """Append an entry in a process that has no connection to Redis."""
    with connect(redis_url) as redis:
        AuditLog(redis).write(who, action, project_id, **details)


def _entry(entry_id: str, stored: dict[str, Any]) -> AuditEntry:
    milliseconds = int(entry_id.partition("-")[0])
    at = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    return AuditEntry(entry_id=entry_id, at=at, **stored)
