"""The captions we suggested, kept in Redis so that a correction can say what was proposed and by which version.

    captioner:suggestions:<project>:<task>   list of suggestions as JSON, newest first

Those that HIDE_SUGGESTIONS_SHARE withheld are among them. The ledger's totals count each task, control and image once
for each version, as long as the log remembers it.

Label Studio forgets the link when a prediction is deleted and reuses task ids, so a suggestion is found by project,
task, control and the image it was made for. Bounded: the newest of each task, and nothing older than half a year.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from redis import Redis

from worker.feedback.ledger_scripts import ledger_key

KEPT_PER_TASK = 20
"""Alternatives of one version count one by one."""
KEPT_S = 180 * 24 * 3600

REMEMBER = f"""
local LOG, TOTALS = unpack(KEYS)

local function place(known)
  return cjson.encode({{known.control, known.model_version, known.image_ref_sha256, known.withheld or false}})
end

local counted = {{}}
for _, record in ipairs(redis.call('LRANGE', LOG, 0, -1)) do counted[place(cjson.decode(record))] = true end
for _, record in ipairs(ARGV) do
  local new = cjson.decode(record)
  if not counted[place(new)] then
    counted[place(new)] = true
    local arm = new.withheld and 'withheld' or 'shown'
    redis.call('HINCRBY', TOTALS, 'tasks:' .. arm .. '::' .. new.model_version, 1)
  end
  redis.call('LREM', LOG, 0, record)
  redis.call('LPUSH', LOG, record)
end
redis.call('LTRIM', LOG, 0, {KEPT_PER_TASK - 1})
redis.call('EXPIRE', LOG, {KEPT_S})
"""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One caption that one model version suggested for one control of one task."""

    project_id: int
    task_id: int
    control: str
    """from_name of the TextArea it was made for."""
    image_ref: str
    """The image as the task named it when the suggestion was made."""
    image_key: str
    """SHA-256 of the image bytes."""
    caption: str
    model_version: str
    score: float | None
    """The decoder's own, 0 to 1; None where only Label Studio remembers the suggestion."""
    withheld: bool = False
    """Whether nobody was shown it, so that captions with and without a suggestion can be compared."""


def seen_suggestions(suggestions: Sequence[Suggestion], *, was_prefilled: bool = False) -> list[Suggestion]:
    """Return those that an annotator may have seen: none where the newest was withheld.

    Args:
        suggestions: of one control, task and image, newest first.
        was_prefilled: Label Studio says that a suggestion was in the field, so one of before was shown.
    """
    if suggestions and suggestions[0].withheld and not was_prefilled:
        return []
    return [suggestion for suggestion in suggestions if not suggestion.withheld]


class SuggestionLog:
    """What was suggested lately, by task."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def remember(self, suggestions: Sequence[Suggestion]) -> None:
        """Keep the suggestions, the last one as the newest of its task; the same one again only becomes the newest."""
        script = self.redis.register_script(REMEMBER)
        with self.redis.pipeline(transaction=False) as pipeline:
            for (project_id, task_id), found in groupby(suggestions, lambda one: (one.project_id, one.task_id)):
                keys = [_key(project_id, task_id), ledger_key("ledger-totals", project_id)]
                script(keys=keys, args=[_record(suggestion) for suggestion in found], client=pipeline)
            pipeline.execute()

    def find(self, project_id: int, task_id: int, control: str, image_ref: str) -> list[Suggestion]:
        """Return what was suggested for this control of this task while it showed this image, newest first."""
        records = [json.loads(text) for text in self.redis.lrange(_key(project_id, task_id), 0, -1)]
        digest = _digest(image_ref)
        return [
            Suggestion(project_id=project_id, task_id=task_id, image_ref=image_ref, **record)
            for record in records
            if record.pop("image_ref_sha256") == digest and record["control"] == control
        ]

    def forget_tasks(self, project_id: int, task_ids: Iterable[int]) -> None:
        keys = [_key(project_id, task_id) for task_id in task_ids]
        if keys:
            self.redis.unlink(*keys)


def _key(project_id: int, task_id: int) -> str:
    return f"captioner:suggestions:{project_id}:{task_id}"


def _record(suggestion: Suggestion) -> str:
    record = asdict(suggestion)
    del record["project_id"], record["task_id"]
    # A data: URI is a whole image; its digest tells as well whether the task still shows it.
    record["image_ref_sha256"] = _digest(record.pop("image_ref"))
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _digest(image_ref: str) -> str:
    return hashlib.sha256(image_ref.encode()).hexdigest()
