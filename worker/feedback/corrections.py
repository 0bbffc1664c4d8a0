"""Corrections and their inbox in Redis; `worker/feedback/inbox_scripts.py` shows how they are kept.

A change number is the microsecond of the change on Redis' clock, made strictly increasing, so it orders changes
and says when they happened. Every write is one script: it happens whole or not at all, for any number of backends.

Redis must run with an append-only file (`appendonly yes`), or the last second before a crash is lost; what is lost
is pulled again from Label Studio. RedisError is never caught here: the backend answers 503 and the pull repairs it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Self, cast

from redis import Redis
from rq.utils import as_text

from model.errors import CorrectionError
from worker.feedback.inbox_scripts import (
    MARK_TRAINED,
    PROJECTS_KEY,
    PUT_ASIDE,
    REMOVE,
    REPLACE,
    STORE,
    TAKE,
    USE_AGAIN,
    inbox_key,
    inbox_keys,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
READ_AT_ONCE = 200


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
    request_id: str | None = None
    """Of the request that told us; None where nobody asked, as when a pull by the clock found it."""

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise CorrectionError(
                f"annotation {self.annotation_id}: the caption of {self.control!r} is empty; "
                f"an emptied annotation removes its correction"
            )
        object.__setattr__(self, "updated_at", utc(self.annotation_id, self.updated_at))
        try:
            "".join(value for value in vars(self).values() if isinstance(value, str)).encode()
        except UnicodeEncodeError as cause:
            raise CorrectionError(f"annotation {self.annotation_id}: half a character in it, {cause}") from cause

    @property
    def is_edit(self) -> bool:
        return self.caption != self.proposed

    @property
    def name(self) -> str:
        """Its field in the inbox, and its name in a version's training record."""
        return f"{self.annotation_id}/{self.control}"

    @property
    def state(self) -> str:
        """Names the correction as it is now; after a change it is another."""
        return sha256(f"{self.name} {self.updated_at}".encode()).hexdigest()[:12]

    def to_json(self) -> str:
        values = asdict(self)
        if self.request_id is None:  # so that what was stored before there were any reads and writes the same
            del values["request_id"]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

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


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The changes of one project that no training has seen."""

    count: int
    oldest_s: float | None
    """Age of the oldest; None when nothing waits."""
    untaken: int
    """Those that no training has even started with."""


class CorrectionInbox:
    """Every correction of every project, the newest of each annotation and control."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def store(self, correction: Correction) -> bool:
        """Keep the correction durably; False when an equal or newer one is there, or was and is removed."""
        project_id, name = correction.project_id, correction.name
        at = (correction.updated_at, correction.to_json(), _microseconds(correction))
        return bool(self._run(STORE, project_id, project_id, correction.task_id, name, *at))

    def remove(self, project_id: int, annotation_ids: Iterable[int], up_to: str | None = None) -> int:
        """Forget what these annotations corrected; returns how many corrections that were.

        Args:
            up_to: updated_at of the state in which they hold nothing, as corrections have it; what is newer stays.
                None when they are gone for good.
        """
        return self._remove(project_id, [f"a:{annotation_id}/" for annotation_id in annotation_ids], up_to)

    def remove_control(self, project_id: int, annotation_id: int, control: str, up_to: str | None = None) -> bool:
        """Forget what an annotation corrected in one control, while its others stay; False when there was nothing.

        Args:
            up_to: as `remove` has it.
        """
        entry = f"[a:{annotation_id}/{control}"
        return bool(self._run(REMOVE, project_id, entry, entry, up_to or ""))

    def forget_tasks(self, project_id: int, task_ids: Iterable[int]) -> int:
        """Forget every correction of these tasks; returns how many that were."""
        return self._remove(project_id, [f"t:{task_id}:" for task_id in task_ids])

    def attach_image_key(self, correction: Correction, image_key: str) -> bool:
        """Add the image's key to a stored correction; False when it changed or went meanwhile. No change by itself."""
        known = replace(correction, image_key=image_key)
        return bool(self._run(REPLACE, correction.project_id, correction.name, correction.to_json(), known.to_json()))

    def set_aside(self, project_id: int, name: str, reason: str, *, by_job: bool = False) -> bool:
        """Leave a correction out from the next training on, until somebody uses it again; a change, as is its use.

        Args:
            project_id: of the project.
            name: of the correction.
            reason: in words for a person.
            by_job: it made a job fail. Then it is used again when the annotator changes it; what a person set aside
                stays out, and no job gives it another reason. Either ends when the correction is removed.

        Returns:
            False when it is not there, or set aside already.
        """
        why = json.dumps({"reason": reason, "by_job": by_job}, ensure_ascii=False)
        return bool(self._run(PUT_ASIDE, project_id, name, why))

    def use_again(self, project_id: int, name: str) -> bool:
        """Undo `set_aside`; False when the correction was not set aside."""
        return bool(self._run(USE_AGAIN, project_id, name))

    def set_aside_names(self, project_id: int) -> dict[str, str]:
        """Return the name of each correction that is set aside, and why."""
        stored = self.redis.hgetall(inbox_key("set-aside", project_id))
        return {as_text(name): json.loads(why)["reason"] for name, why in stored.items()}

    def corrections(self, project_id: int) -> list[Correction]:
        """Return the project's corrections, those set aside too, oldest first."""
        stored = self.redis.hvals(inbox_key("corrections", project_id))
        found = [Correction.from_json(text) for text in stored]
        return sorted(found, key=lambda correction: (correction.updated_at, correction.annotation_id))

    def find(self, project_id: int, name: str) -> Correction | None:
        """Return one correction by its name; None when it is not here (any more)."""
        text = self.redis.hget(inbox_key("corrections", project_id), name)
        return None if text is None else Correction.from_json(text)

    def newest_first(self, project_id: int, start: int = 0) -> Iterator[Correction]:
        """Yield the corrections from the newest to the oldest.

        Reads as many as are asked for, some hundred at a time, so looking at the newest costs the same however many
        there are.

        Args:
            start: how many of the newest to pass over.
        """
        times, corrections = inbox_key("times", project_id), inbox_key("corrections", project_id)
        if start == 0 and self.redis.zcard(times) != self.redis.hlen(corrections):
            self._index_times(project_id)
        while names := cast(list[bytes], self.redis.zrevrange(times, start, start + READ_AT_ONCE - 1)):
            yield from (Correction.from_json(text) for text in self.redis.hmget(corrections, names) if text is not None)
            start += len(names)

    def projects(self) -> list[int]:
        """Return every project that ever had a correction."""
        return sorted(int(project_id) for project_id in self.redis.smembers(PROJECTS_KEY))

    def waiting(self, project_id: int) -> int:
        """Count the corrections that came, changed or went after the last training."""
        return self.redis.zcard(inbox_key("changed", project_id))

    def waiting_of(self, project_ids: Sequence[int]) -> dict[int, Waiting]:
        """Return what waits in each of these projects; two questions, however many they are."""
        keys = {project_id: inbox_key("changed", project_id) for project_id in project_ids}
        with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for project_id, key in keys.items():
                pipeline.zrange(key, 0, 0, withscores=True)
                pipeline.zcard(key)
                pipeline.hget(inbox_key("changes", project_id), "taken")
            (seconds, microseconds), *answers = pipeline.execute()
            now = seconds * 1_000_000 + microseconds
            rows = list(zip(keys, *(answers[start::3] for start in range(3)), strict=True))
            for project_id, _, _, taken in rows:
                pipeline.zcount(keys[project_id], f"({int(taken or 0)}", "+inf")
            untaken = pipeline.execute()
        return {
            project_id: Waiting(
                count=count, oldest_s=max(0.0, (now - int(oldest[0][1])) / 1e6) if oldest else None, untaken=left
            )
            for (project_id, oldest, count, _), left in zip(rows, untaken, strict=True)
        }

    def untaken(self, project_id: int) -> int:
        """Count the waiting corrections that no training has even started with, be it one that runs or failed."""
        taken = int(self.redis.hget(inbox_key("changes", project_id), "taken") or 0)
        return self.redis.zcount(inbox_key("changed", project_id), f"({taken}", "+inf")

    def take(self, project_id: int) -> int:
        """Say that a training starts with everything up to now; returns the newest change's number."""
        return self._run(TAKE, project_id)

    def oldest_waiting_s(self, project_id: int) -> float | None:
        """Seconds since the oldest change no training has seen; None when nothing waits."""
        oldest = self.redis.zrange(inbox_key("changed", project_id), 0, 0, withscores=True)
        return self._age_s(int(oldest[0][1])) if oldest else None

    def quiet_s(self, project_id: int) -> float | None:
        """Seconds since the newest change; None when there never was one."""
        newest = self.change_number(project_id)
        return self._age_s(newest) if newest else None

    def change_number(self, project_id: int) -> int:
        """The newest change's number; 0 when there never was one."""
        return int(self.redis.hget(inbox_key("changes", project_id), "last") or 0)

    def trained_number(self, project_id: int) -> int:
        """The change number of the last training; 0 when there never was one."""
        return int(self.redis.hget(inbox_key("changes", project_id), "trained") or 0)

    def mark_trained(self, project_id: int, change_number: int) -> None:
        """Say that a training has seen every change up to this number; a lower number than before changes nothing."""
        self._run(MARK_TRAINED, project_id, change_number)

    def _index_times(self, project_id: int) -> None:
        """Build the index of an inbox that was filled before there was one."""
        for name, text in self.redis.hscan_iter(inbox_key("corrections", project_id), count=READ_AT_ONCE):
            self.redis.zadd(inbox_key("times", project_id), {name: _microseconds(Correction.from_json(text))})

    def _remove(self, project_id: int, prefixes: list[str], up_to: str | None = None) -> int:
        """In one round trip: a project's tasks may go by the thousand, and a webhook has one second."""
        script = self.redis.register_script(REMOVE)
        with self.redis.pipeline(transaction=False) as pipeline:
            for prefix in prefixes:
                places = [f"[{prefix}".encode(), f"({prefix}".encode() + b"\xff"]
                script(keys=inbox_keys(project_id), args=[*places, up_to or ""], client=pipeline)
            return sum(pipeline.execute())

    def _age_s(self, change_number: int) -> float:
        seconds, microseconds = self.redis.time()
        return max(0.0, seconds + (microseconds - change_number) / 1e6)

    def _run(self, script: str, project_id: int, *arguments: str | int) -> int:
        return int(self.redis.register_script(script)(keys=inbox_keys(project_id), args=list(arguments)))


def _microseconds(correction: Correction) -> int:
    """Return updated_at since 1970."""
    return (datetime.fromisoformat(correction.updated_at) - EPOCH) // timedelta(microseconds=1)


def utc(annotation_id: int, written: str) -> str:
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
