"""The changes of captions in the order of their generations, so that a memory reads only what it does not know yet.

Each change of a caption, its exclusion, inclusion or removal, and the arrival of its image's key, has the project's
next generation: 1, 2, 3 and so on. So has each switch of a rule of wording, which changes no caption. `feedback.lua`
counts them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq.utils import as_text

from worker.feedback.layout import run
from worker.feedback.record import Correction
from worker.feedback.script import key

AT_ONCE = 500
"""Changes read in one request."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How far the captions of a project have changed."""

    number: int
    """Of the newest change; 0 when there never was one."""
    names: int
    """Corrections that ever changed. A reader that knows of another number has to read all of them."""
    reworded: int
    """Number of the last change that concerns every suggestion; 0 when there never was one."""


@dataclass(frozen=True, kw_only=True)
class CaptionChanges:
    """Some changes of one project, oldest first."""

    captions: Mapping[str, Correction | None]
    """By name; None where the caption went, or is excluded from learning."""
    up_to: int
    """Generation of the newest of them."""
    is_all: bool
    """False when there may be more."""


def read_generation(redis: Redis, project_id: int) -> Generation:
    """Return the project's generation; one small request."""
    changes, latest = key("changes", project_id), key("latest", project_id)
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.hmget(changes, "generation", "reworded")
        pipeline.zcard(latest)
        pipeline.exists(key("times", project_id))
        (number, reworded), names, has_captions = pipeline.execute()
    if not names and has_captions:
        run(redis, project_id, "renew_all")
        return read_generation(redis, project_id)
    return Generation(number=int(number or 0), names=names, reworded=int(reworded or 0))


def read_changes(redis: Redis, project_id: int, after: int) -> CaptionChanges:
    """Return the changes after a generation, at most AT_ONCE of them."""
    found: Any = redis.zrangebyscore(
        key("latest", project_id), f"({after}", "+inf", start=0, num=AT_ONCE, withscores=True
    )
    names = [as_text(name) for name, _ in found]
    captions = _read(redis, project_id, names)
    up_to = int(found[-1][1]) if found else after
    return CaptionChanges(captions=captions, up_to=up_to, is_all=len(found) < AT_ONCE)


def _read(redis: Redis, project_id: int, names: Sequence[str]) -> dict[str, Correction | None]:
    if not names:
        return {}
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.hmget(key("feedback", project_id), names)
        pipeline.hmget(key("excluded", project_id), names)
        texts, excluded = pipeline.execute()
    return {
        name: _correction(text) if why is None else None for name, text, why in zip(names, texts, excluded, strict=True)
    }


def _correction(text: bytes | str | None) -> Correction | None:
    """Return the record if it has a caption."""
    if text is None or json.loads(text).get("caption") is None:
        return None
    return Correction.from_json(text)
