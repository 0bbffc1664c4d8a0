"""The changes of feedback that no training has seen: how many wait, for how long, and which a training has claimed.

A change is a caption that came, changed, went, was excluded or was included. `feedback.lua` describes change numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from worker.feedback.layout import run
from worker.feedback.script import key


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The changes of one project that no training has seen."""

    count: int
    unclaimed: int
    """Changes that no training has claimed, neither a running nor a failed one."""
    oldest_s: float | None
    """Age of the oldest; None when nothing waits."""
    quiet_s: float | None
    """Seconds since the newest change of all; None when there never was one."""
    change_number: int
    """The newest change's number; 0 when there never was one."""


def read_waiting(redis: Redis, project_id: int) -> Waiting:
    """Return what waits in a project."""
    return read_waitings(redis, [project_id])[project_id]


def read_waitings(redis: Redis, project_ids: Sequence[int]) -> dict[int, Waiting]:
    """Return what waits in each of these projects; two requests, however many projects."""
    changed = [key("changed", project_id) for project_id in project_ids]
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for project_id in project_ids:
            pipeline.hmget(key("changes", project_id), "claimed", "last")
        (seconds, microseconds), *numbers = pipeline.execute()
        for name, (claimed, _) in zip(changed, numbers, strict=True):
            pipeline.zcard(name)
            pipeline.zcount(name, f"({int(claimed or 0)}", "+inf")
            pipeline.zrange(name, 0, 0, withscores=True)
        replies = pipeline.execute()

    def age_s(number: int) -> float:
        return max(0.0, float(seconds + (microseconds - number) / 1e6))

    return {
        project_id: Waiting(
            count=replies[3 * place],
            unclaimed=replies[3 * place + 1],
            oldest_s=age_s(int(oldest[0][1])) if (oldest := replies[3 * place + 2]) else None,
            quiet_s=age_s(int(last)) if last else None,
            change_number=int(last or 0),
        )
        for place, (project_id, (_, last)) in enumerate(zip(project_ids, numbers, strict=True))
    }


def claim(redis: Redis, project_id: int) -> int:
    """Let a training begin with everything up to now; returns the newest change's number."""
    return int(run(redis, project_id, "claim"))


def mark_trained(redis: Redis, project_id: int, change_number: int) -> None:
    """Note that a training has seen every change up to this number; a lower number than before changes nothing."""
    run(redis, project_id, "mark_trained", change_number)


def trained_number(redis: Redis, project_id: int) -> int:
    """Return the change number of the last training; 0 when there never was one."""
    return int(redis.hget(key("changes", project_id), "trained") or 0)
