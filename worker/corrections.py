"""Corrections and their inbox in Redis.

    captioner:projects               set    projects that ever had a correction
    captioner:corrections:<project>  hash   "<annotation id>/<control>" -> correction as JSON
    captioner:index:<project>        zset   "a:<annotation id>/<control>" and "t:<task id>:<annotation id>/<control>"
    captioner:changed:<project>      zset   what changed after the last training, by change number
    captioner:changes:<project>      hash   last and trained: change numbers
    captioner:removed:<project>      hash   newest updated_at of what was removed, so that a late replay stays out

A change number is the microsecond of the change on Redis' clock, made strictly increasing, so it orders changes
and says when they happened. Every write is one script: it happens whole or not at all, for any number of backends.

Redis must run with an append-only file (`appendonly yes`), or the last second before a crash is lost; what is lost
is pulled again from Label Studio. RedisError is never caught here: the backend answers 503 and the pull repairs it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from redis import Redis

from model.errors import CorrectionError

PROJECTS_KEY = "captioner:projects"
REMOVED_KEPT_S = 24 * 3600
"""How long a removal is remembered: longer than any event or pull of the removed state can be under way."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One annotator's final caption for one image, beside the caption we proposed.

    Raises CorrectionError when the caption is empty or updated_at is no point in time.
    """

    project_id: int
    task_id: int
    annotation_id: int
    annotation_uid: str
    """Label Studio's stable UUID of the annotation; ids are reused after a deletion, this is not."""
    control: str
    """from_name of the TextArea that was filled in."""
    image_ref: str
    """The image as the task names it: an upload path, an address, a data: URI."""
    image_key: str | None
    """SHA-256 of the image bytes; finds the features. None until somebody has read the image."""
    proposed: str | None
    """Our caption, or None when the annotator wrote on an empty field."""
    caption: str
    model_version: str | None
    """The version that proposed; None when nothing was proposed."""
    annotator: int | None
    """Label Studio's user id."""
    lead_time_s: float | None
    ground_truth: bool
    updated_at: str
    """ISO 8601 in UTC with microseconds, so that texts order as times do; other forms are brought into this one."""

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise CorrectionError(
                f"annotation {self.annotation_id}: the caption of {self.control!r} is empty; "
                f"an emptied annotation removes its correction"
            )
        object.__setattr__(self, "updated_at", _utc(self.annotation_id, self.updated_at))

    @property
    def is_edit(self) -> bool:
        return self.caption != self.proposed

    @property
    def name(self) -> str:
        """Its field in the inbox, and its name in a version's training record."""
        return f"{self.annotation_id}/{self.control}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            CorrectionError: the text is something else.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as cause:
            raise CorrectionError(f"a stored correction cannot be read: {cause}") from cause


class CorrectionInbox:
    """Every correction of every project, the newest of each annotation and control."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def store(self, correction: Correction) -> bool:
        """Keep the correction durably; False when an equal or newer one is there, or was and is removed."""
        raise NotImplementedError

    def remove(self, project_id: int, annotation_ids: Iterable[int]) -> int:
        """Forget what these annotations corrected; returns how many corrections that were."""
        raise NotImplementedError

    def forget_tasks(self, project_id: int, task_ids: Iterable[int]) -> int:
        """Forget every correction of these tasks; returns how many that were."""
        raise NotImplementedError

    def attach_image_key(self, correction: Correction, image_key: str) -> bool:
        """Add the image's key to a stored correction; False when it changed or went meanwhile. No change by itself."""
        raise NotImplementedError

    def corrections(self, project_id: int) -> list[Correction]:
        """Return the project's corrections, oldest first."""
        raise NotImplementedError

    def projects(self) -> list[int]:
        raise NotImplementedError

    def waiting(self, project_id: int) -> int:
        """Count the corrections that came, changed or went after the last training."""
        raise NotImplementedError

    def oldest_waiting_s(self, project_id: int) -> float | None:
        """Seconds since the oldest change no training has seen; None when nothing waits."""
        raise NotImplementedError

    def quiet_s(self, project_id: int) -> float | None:
        """Seconds since the newest change; None when there never was one."""
        raise NotImplementedError

    def change_number(self, project_id: int) -> int:
        """The newest change's number; 0 when there never was one."""
        raise NotImplementedError

    def trained_number(self, project_id: int) -> int:
        """The change number of the last training; 0 when there never was one."""
        raise NotImplementedError

    def mark_trained(self, project_id: int, change_number: int) -> None:
        """Say that a training has seen every change up to this number."""
        raise NotImplementedError


def _utc(annotation_id: int, written: str) -> str:
    try:
        moment = datetime.fromisoformat(written)
    except (TypeError, ValueError) as cause:
        raise _no_time(annotation_id, written) from cause
    if moment.tzinfo is None:
        raise _no_time(annotation_id, written)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _no_time(annotation_id: int, written: Any) -> CorrectionError:
    return CorrectionError(
        f"annotation {annotation_id}: updated_at must be a time with its zone, "
        f"like 2025-01-31T12:00:00Z, got {written!r}"
    )
