"""Corrections and their inbox in Redis.

    captioner:projects               set    projects that ever had a correction
    captioner:corrections:<project>  hash   name -> correction as JSON; its name is "<annotation id>/<control>"
    captioner:index:<project>        zset   "a:<name>" and "t:<task id>:<name>", to find names by annotation and task
    captioner:changed:<project>      zset   names of what changed after the last training, by change number
    captioner:changes:<project>      hash   last, taken (by a training that started) and trained: change numbers
    captioner:removed:<project>      hash   name -> updated_at of what was removed, so that a late replay stays out

A change number is the microsecond of the change on Redis' clock, made strictly increasing, so it orders changes
and says when they happened. Every write is one script: it happens whole or not at all, for any number of backends.

Redis must run with an append-only file (`appendonly yes`), or the last second before a crash is lost; what is lost
is pulled again from Label Studio. RedisError is never caught here: the backend answers 503 and the pull repairs it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from redis import Redis

from model.errors import CorrectionError

PROJECTS_KEY = "captioner:projects"
KEYS = ("corrections", "index", "changed", "changes", "removed")

REMOVED_KEPT_S = 24 * 3600
"""How long a removal is remembered: longer than any event or pull of the removed state can be under way."""

SHARED = f"""
local PROJECTS, CORRECTIONS, INDEX, CHANGED, CHANGES, REMOVED = unpack(KEYS)

local function next_change()
  local now = redis.call('TIME')
  local last = tonumber(redis.call('HGET', CHANGES, 'last') or '0')
  local number = string.format('%.0f', math.max(now[1] * 1000000 + now[2], last + 1))
  redis.call('HSET', CHANGES, 'last', number)
  return number
end

local function task_entry(name, correction)
  return string.format('t:%.0f:%s', correction.task_id, name)
end

local function remember_removal(name, correction)
  redis.call('HSET', REMOVED, name, correction.updated_at)
  redis.call('EXPIRE', REMOVED, {REMOVED_KEPT_S})
end
"""

STORE = (
    SHARED
    + """
local project, task, name, updated_at, json = unpack(ARGV)
local before = redis.call('HGET', CORRECTIONS, name)
if before then
  before = cjson.decode(before)
  if before.updated_at >= updated_at then return 0 end
  redis.call('ZREM', INDEX, task_entry(name, before))
end
local removed = redis.call('HGET', REMOVED, name)
if removed and removed >= updated_at then return 0 end

redis.call('SADD', PROJECTS, project)
redis.call('HSET', CORRECTIONS, name, json)
redis.call('ZADD', INDEX, 0, 'a:' .. name, 0, 't:' .. task .. ':' .. name)
redis.call('ZADD', CHANGED, next_change(), name)
return 1
"""
)

REMOVE = (
    SHARED
    + """
local prefix = ARGV[1]
local last = ARGV[2] or '(' .. prefix .. '\\255'
local count = 0
for _, entry in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[' .. prefix, last)) do
  local name = string.match(entry, '^a:(.*)$') or string.match(entry, '^t:%d+:(.*)$')
  local correction = cjson.decode(redis.call('HGET', CORRECTIONS, name))
  redis.call('HDEL', CORRECTIONS, name)
  redis.call('ZREM', INDEX, 'a:' .. name, task_entry(name, correction))
  remember_removal(name, correction)
  local number = next_change()
  -- What no training has seen is simply gone; what one has seen must be trained away.
  if redis.call('ZREM', CHANGED, name) == 0 then redis.call('ZADD', CHANGED, number, name) end
  count = count + 1
end
return count
"""
)

REPLACE = (
    SHARED
    + """
local name, before, after = unpack(ARGV)
if redis.call('HGET', CORRECTIONS, name) ~= before then return 0 end
redis.call('HSET', CORRECTIONS, name, after)
return 1
"""
)

TAKE = (
    SHARED
    + """
local last = redis.call('HGET', CHANGES, 'last') or '0'
redis.call('HSET', CHANGES, 'taken', last)
return last
"""
)

MARK_TRAINED = (
    SHARED
    + """
local number = ARGV[1]
local trained = tonumber(redis.call('HGET', CHANGES, 'trained') or '0')
if tonumber(number) > trained then redis.call('HSET', CHANGES, 'trained', number) end
return redis.call('ZREMRANGEBYSCORE', CHANGED, '-inf', number)
"""
)


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
        try:
            self.to_json().encode()
        except UnicodeEncodeError as cause:
            raise CorrectionError(f"annotation {self.annotation_id}: half a character in it, {cause}") from cause

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
        project_id, name = correction.project_id, correction.name
        arguments = (project_id, correction.task_id, name, correction.updated_at, correction.to_json())
        return bool(self._run(STORE, project_id, *arguments))

    def remove(self, project_id: int, annotation_ids: Iterable[int]) -> int:
        """Forget what these annotations corrected; returns how many corrections that were."""
        return self._remove(project_id, [f"a:{annotation_id}/" for annotation_id in annotation_ids])

    def remove_control(self, project_id: int, annotation_id: int, control: str) -> bool:
        """Forget what an annotation corrected in one control, while its others stay; False when there was nothing."""
        entry = f"a:{annotation_id}/{control}"
        return bool(self._run(REMOVE, project_id, entry, f"[{entry}"))

    def forget_tasks(self, project_id: int, task_ids: Iterable[int]) -> int:
        """Forget every correction of these tasks; returns how many that were."""
        return self._remove(project_id, [f"t:{task_id}:" for task_id in task_ids])

    def attach_image_key(self, correction: Correction, image_key: str) -> bool:
        """Add the image's key to a stored correction; False when it changed or went meanwhile. No change by itself."""
        known = replace(correction, image_key=image_key)
        return bool(self._run(REPLACE, correction.project_id, correction.name, correction.to_json(), known.to_json()))

    def corrections(self, project_id: int) -> list[Correction]:
        """Return the project's corrections, oldest first."""
        stored = self.redis.hvals(_key("corrections", project_id))
        found = [Correction.from_json(text) for text in stored]
        return sorted(found, key=lambda correction: (correction.updated_at, correction.annotation_id))

    def projects(self) -> list[int]:
        """Return every project that ever had a correction."""
        return sorted(int(project_id) for project_id in self.redis.smembers(PROJECTS_KEY))

    def waiting(self, project_id: int) -> int:
        """Count the corrections that came, changed or went after the last training."""
        return self.redis.zcard(_key("changed", project_id))

    def untaken(self, project_id: int) -> int:
        """Count the waiting corrections that no training has even started with, be it one that runs or failed."""
        taken = int(self.redis.hget(_key("changes", project_id), "taken") or 0)
        return self.redis.zcount(_key("changed", project_id), f"({taken}", "+inf")

    def take(self, project_id: int) -> int:
        """Say that a training starts with everything up to now; returns the newest change's number."""
        return self._run(TAKE, project_id)

    def oldest_waiting_s(self, project_id: int) -> float | None:
        """Seconds since the oldest change no training has seen; None when nothing waits."""
        oldest = self.redis.zrange(_key("changed", project_id), 0, 0, withscores=True)
        return self._age_s(int(oldest[0][1])) if oldest else None

    def quiet_s(self, project_id: int) -> float | None:
        """Seconds since the newest change; None when there never was one."""
        newest = self.change_number(project_id)
        return self._age_s(newest) if newest else None

    def change_number(self, project_id: int) -> int:
        """The newest change's number; 0 when there never was one."""
        return int(self.redis.hget(_key("changes", project_id), "last") or 0)

    def trained_number(self, project_id: int) -> int:
        """The change number of the last training; 0 when there never was one."""
        return int(self.redis.hget(_key("changes", project_id), "trained") or 0)

    def mark_trained(self, project_id: int, change_number: int) -> None:
        """Say that a training has seen every change up to this number; a lower number than before changes nothing."""
        self._run(MARK_TRAINED, project_id, change_number)

    def _remove(self, project_id: int, prefixes: list[str]) -> int:
        """In one round trip: a project's tasks may go by the thousand, and a webhook has one second."""
        script = self.redis.register_script(REMOVE)
        with self.redis.pipeline(transaction=False) as pipeline:
            for prefix in prefixes:
                script(keys=_keys(project_id), args=[prefix], client=pipeline)
            return sum(pipeline.execute())

    def _age_s(self, change_number: int) -> float:
        seconds, microseconds = self.redis.time()
        return max(0.0, seconds + (microseconds - change_number) / 1e6)

    def _run(self, script: str, project_id: int, *arguments: str | int) -> int:
        return int(self.redis.register_script(script)(keys=_keys(project_id), args=list(arguments)))


def _keys(project_id: int) -> list[str]:
    return [PROJECTS_KEY, *(_key(noun, project_id) for noun in KEYS)]


def _key(noun: str, project_id: int) -> str:
    return f"captioner:{noun}:{project_id}"


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
