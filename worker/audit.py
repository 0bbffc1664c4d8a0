"""Stub until the access branch is merged."""

from typing import Any

from redis import Redis


class AuditLog:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def write(self, who: str, action: str, project_id: int | None = None, **details: Any) -> None: ...
