"""The changes of feedback that no training has seen: how many wait, for how long, and which a training has claimed.

A change is a caption that came, changed, went, was excluded or was included. `feedback.lua` describes change numbers.
How many changes must wait before a training depends on the memory, so the backend notes here what the memory does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from worker.feedback.layout import run
from worker.feedback.script import key

SET_BACK_S = 60
"""Change numbers are strictly increasing, so they may be a little ahead of the clock."""
UNKNOWN_AGE_S = 24 * 3600.0
TAUGHT_BY_MEMORY = "taught-by-memory"


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
    corrections: int
    """All corrections of the project, the excluded ones too."""
    is_taught_by_memory: bool
    """The memory is open and the images are of a kind of their own, so a training adds little."""

    @property
    def trained_on(self) -> int:
        """Corrections that a training has seen and that did not change since."""
        return max(0, self.corrections - self.count)


def read_waiting(redis: Redis, project_id: int) -> Waiting:
    """Return what waits in a project."""
    return read_waitings(redis, [project_id])[project_id]


def read_waitings(redis: Redis, project_ids: Sequence[int]) -> dict[int, Waiting]:
    """Return what waits in each of these projects; two requests, however many projects."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for project_id in project_ids:
            pipeline.hmget(key("changes", project_id), "claimed", "last", TAUGHT_BY_MEMORY)
        (seconds, microseconds), *fields = pipeline.execute()
        for project_id, (claimed, _, _) in zip(project_ids, fields, strict=True):
            changed = key("changed", project_id)
            pipeline.zcard(changed)
            pipeline.zcount(changed, f"({int(claimed or 0)}", "+inf")
            pipeline.zrange(changed, 0, 0, withscores=True)
            pipeline.zcard(key("times", project_id))
        replies = iter(pipeline.execute())

    def age_s(number: int) -> float:
        age = float(seconds + (microseconds - number) / 1e6)
        # A change of the future is older than the moment in which the clock was set back.
        return age if age >= 0 else 0.0 if age > -SET_BACK_S else UNKNOWN_AGE_S

    waiting = {}
    for project_id, (_, last, is_taught) in zip(project_ids, fields, strict=True):
        count, unclaimed, oldest, corrections = (next(replies) for _ in range(4))
        waiting[project_id] = Waiting(
            count=count,
            unclaimed=unclaimed,
            oldest_s=age_s(int(oldest[0][1])) if oldest else None,
            quiet_s=age_s(int(last)) if last else None,
            change_number=int(last or 0),
            corrections=corrections,
            is_taught_by_memory=is_taught is not None,
        )
    return waiting


def claim(redis: Redis, project_id: int) -> int:
    """Let a training begin with everything up to now; returns the newest change's number."""
    return int(run(redis, project_id, "claim"))


def mark_trained(redis: Redis, project_id: int, change_number: int) -> None:
    """Note that a training has seen every change up to this number; a lower number than before changes nothing."""
    run(redis, project_id, "mark_trained", change_number)


def trained_number(redis: Redis, project_id: int) -> int:
    """Return the change number of the last training; 0 when there never was one."""
    return int(redis.hget(key("changes", project_id), "trained") or 0)


def note_taught_by_memory(redis: Redis, project_id: int, is_taught: bool) -> None:
    """Note whether the memory teaches the project. Trainings are then rare; see `policy.corrections_needed`."""
    if is_taught:
        redis.hset(key("changes", project_id), TAUGHT_BY_MEMORY, 1)
    else:
        redis.hdel(key("changes", project_id), TAUGHT_BY_MEMORY)
