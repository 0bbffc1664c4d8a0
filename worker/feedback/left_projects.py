"""Projects that have left: nothing is done for them any more. Their corrections stay until a person forgets them.

captioner:left   hash   project -> why it has left, in words
"""

from redis import Redis
from rq.utils import as_text

LEFT_KEY = "captioner:left"


def leave(redis: Redis, project_id: int, reason: str) -> bool:
    """Note that a project has left; False if that was known."""
    return bool(redis.hsetnx(LEFT_KEY, str(project_id), reason))


def come_back(redis: Redis, project_id: int) -> bool:
    """Note that a project is ours; False if that was known."""
    return bool(redis.hdel(LEFT_KEY, str(project_id)))


def why_left(redis: Redis, project_id: int) -> str | None:
    """Return why a project has left; None if it has not."""
    reason = redis.hget(LEFT_KEY, str(project_id))
    return None if reason is None else as_text(reason)


def left_projects(redis: Redis) -> dict[int, str]:
    """Return the projects that have left, with the reasons."""
    return {int(project_id): as_text(reason) for project_id, reason in redis.hgetall(LEFT_KEY).items()}
