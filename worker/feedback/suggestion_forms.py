"""The forms of a project's suggestions: which fields they fill, and the settings that shape them.

captioner:forms:<project>   hash   digest of a form -> its number; `count`; `current`: number of the form in use

When the labeling config or a setting changes, the same version suggests something else. So the number of the form is
part of what Label Studio is told as the model version (`v3-1a2b3c4d+f2`), and it asks for all suggestions anew. The
first form of a project has no mark. A form that comes back gets its number back.
"""

import hashlib
import json
from typing import Any

from redis import Redis

from worker.feedback.script import key
from worker.settings import Settings

SHAPING = ("alternatives", "beam_size", "hide_suggestions_share", "decoder_alone_share")
"""Settings that change what is suggested."""
FIRST = 1


def describe_form(fields: Any, settings: Settings) -> str:
    """Return a digest of the fields, as JSON, and of the settings that shape suggestions."""
    shaped = {name: getattr(settings, name) for name in SHAPING}
    return hashlib.sha256(json.dumps([fields, shaped], sort_keys=True).encode()).hexdigest()[:16]


def form_number(redis: Redis, project_id: int, form: str) -> int:
    """Return the number of a form, a new one for a form that the project has not had.

    Raises:
        RedisError: Redis does not answer.
    """
    forms = key("forms", project_id)
    if (number := redis.hget(forms, form)) is None:
        redis.hsetnx(forms, form, redis.hincrby(forms, "count", 1))
        number = redis.hget(forms, form)
    return int(number or FIRST)


def begin_form(redis: Redis, project_id: int, number: int) -> bool:
    """Note that a form is in use now; return True if another one was before.

    Raises:
        RedisError: Redis does not answer.
    """
    forms = key("forms", project_id)
    before = redis.hget(forms, "current")
    if before is None or int(before) != number:
        redis.hset(forms, "current", number)
    return before is not None and int(before) != number
