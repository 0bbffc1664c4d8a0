"""How far the replacement of stored suggestions in Label Studio is, over all of its turns; the admin pages show it.

captioner:refresh-progress:<project>   JSON of a RefreshProgress
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Self

from redis import Redis

from worker.feedback.script import key

logger = logging.getLogger(__name__)

KEPT_S = 7 * 24 * 3600
QUIET_S = 120.0
"""Without progress for so long, the work has stopped: Label Studio does not answer, or no worker is running."""

Standing = Literal["at work", "quiet", "complete", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RefreshProgress:
    """The progress of one replacement."""

    version: str
    """Whose suggestions are written."""
    started_at: str
    """ISO 8601, UTC; so is the next."""
    at: str
    done: int = 0
    """Tasks that were looked at."""
    total: int = 0
    """Tasks that nobody has annotated."""
    refreshed: int = 0
    """Tasks whose stored suggestion was replaced."""
    failed: int = 0
    """Tasks without a suggestion, because their image cannot be read or Label Studio refused the prediction."""
    is_over: bool = False
    stopped: str | None = None
    """Why it ended before the last task, in words."""
    turn: int = 0
    """Id of the last task before the turn that runs or follows."""
    turn_counts: tuple[int, int, int] = (0, 0, 0)
    """`done`, `refreshed` and `failed` before that turn."""

    @staticmethod
    def begin(redis: Redis, project_id: int, version: str, after_id: int) -> "RefreshProgress":
        """Return the progress before a turn: of its earlier turns, or none for the first.

        Args:
            redis: holds it.
            project_id: of the tasks.
            version: whose suggestions are written.
            after_id: id of the last task before the turn; 0 for the first turn.
        """
        before = read_refreshes(redis, [project_id]).get(project_id)
        if after_id and before is not None and (before.version, before.turn) == (version, after_id):
            done, refreshed, failed = before.turn_counts
            return replace(before, done=done, refreshed=refreshed, failed=failed, is_over=False, at=_now())
        return RefreshProgress(version=version, started_at=_now(), at=_now(), turn=after_id)

    def write(self, redis: Redis, project_id: int) -> None:
        """Keep the progress for the admin pages, unless another replacement has begun since."""
        stored = read_refreshes(redis, [project_id]).get(project_id)
        if stored is None or stored.started_at <= self.started_at:
            redis.set(key("refresh-progress", project_id), json.dumps(asdict(self)), ex=KEPT_S)

    def after(self, done: int, refreshed: int, failed: int, left: int) -> Self:
        """Return the progress within the turn.

        Args:
            done: tasks of this turn that were looked at.
            refreshed: of them, those with a new suggestion.
            failed: of them, those without a suggestion.
            left: tasks that follow, in this turn and in later turns.
        """
        done_before, refreshed_before, failed_before = self.turn_counts
        return replace(
            self,
            done=done_before + done,
            refreshed=refreshed_before + refreshed,
            failed=failed_before + failed,
            total=done_before + done + max(0, left),
            at=_now(),
        )

    def ended(self, stopped: str | None, rest_after: int | None) -> Self:
        """Return the progress after the turn.

        Args:
            stopped: why the turn ended before the last task, in words.
            rest_after: id of the last task of this turn if another turn follows.
        """
        if rest_after is not None:
            return replace(self, turn=rest_after, turn_counts=(self.done, self.refreshed, self.failed), at=_now())
        return replace(self, is_over=True, stopped=stopped, at=_now())

    @property
    def share(self) -> float | None:
        """Part that is done, 0 to 1; None before the tasks are counted."""
        return self.done / self.total if self.total else None

    @property
    def standing(self) -> Standing:
        if self.is_over:
            return "stopped" if self.stopped else "complete"
        return "quiet" if _seconds(self.at, _now()) > QUIET_S else "at work"

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes, if it goes on as until now."""
        if self.is_over or not self.done:
            return None
        return round(_seconds(self.started_at, self.at) / self.done * (self.total - self.done))


def read_refreshes(redis: Redis, project_ids: Sequence[int]) -> dict[int, RefreshProgress]:
    """Return the progress of each project's last replacement; it is kept for KEPT_S."""
    texts = redis.mget([key("refresh-progress", project_id) for project_id in project_ids]) if project_ids else []
    found = {}
    for project_id, text in zip(project_ids, texts, strict=True):
        try:
            if text is not None:
                found[project_id] = RefreshProgress(**json.loads(text))
        except (ValueError, TypeError) as problem:  # another version of this program may have written it
            logger.warning("progress of a refresh cannot be read project=%s problem=%s", project_id, problem)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
