"""The judgement of a memory: whether it may speak, and in which wording the decoder's captions are shown.

captioner:memory:<project>   hash   version -> a Judgement for each field, as JSON

It depends on the version, because the memory is compared with the version's decoder.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from redis import Redis

from model.memory.evidence import Evidence
from model.memory.experiment import Experiment
from model.memory.style import StyleRule
from worker.feedback.script import key

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the corrections of one field showed."""

    generation: int
    """Of the corrections that were judged."""
    rows: int
    is_open: bool
    """The memory may speak."""
    limit: float
    """Images that are less like every corrected image are of another kind: the decoder suggests alone."""
    is_unfamiliar: bool = False
    """The bundle was not trained on images of this kind."""
    is_apart: bool = False
    """The images are also more like each other than like images of the bundle."""
    evidence: Evidence | None = None
    style: tuple[StyleRule, ...] = ()
    """The wording of the project. It is applied to the decoder's captions, also while the memory is closed."""

    @property
    def has_effect(self) -> bool:
        return self.is_open or bool(self.style)


def have_effect(judgements: Iterable[Judgement]) -> bool:
    """Say whether the memory changes any suggestion."""
    return any(judgement.has_effect for judgement in judgements)


def teach_alone(judgements: Iterable[Judgement]) -> bool:
    """Say whether the memory teaches the project, so that trainings add little.

    It does if every field with corrections has an open memory and images of a kind of its own.
    """
    with_corrections = [judgement for judgement in judgements if judgement.rows]
    return bool(with_corrections) and all(judgement.is_open and judgement.is_apart for judgement in with_corrections)


def read_judgements(redis: Redis, project_id: int, version: str) -> dict[str, Judgement]:
    """Return the judgement of each field, for a version; none where they are damaged.

    Raises:
        RedisError: Redis does not answer.
    """
    return _parse(redis.hget(key("memory", project_id), version), project_id)


def read_earlier_judgements(redis: Redis, project_id: int) -> dict[str, Judgement]:
    """Return the newest judgements of any version. They serve until those of a new version are there.

    They are due at once. The wording is left out, because a new version may have learned it.

    Raises:
        RedisError: Redis does not answer.
    """
    stored = redis.hgetall(key("memory", project_id))
    of_versions = [_parse(text, project_id) for text in stored.values()]
    newest = max(of_versions, key=_newest_generation, default={})
    return {field: replace(judgement, generation=-1, style=()) for field, judgement in newest.items()}


def write_judgements(redis: Redis, project_id: int, version: str, judgements: Mapping[str, Judgement]) -> None:
    values = {field: asdict(judgement) for field, judgement in judgements.items()}
    redis.hset(key("memory", project_id), version, json.dumps(values, ensure_ascii=False))


def _newest_generation(judgements: Mapping[str, Judgement]) -> int:
    return max((judgement.generation for judgement in judgements.values()), default=-1)


def _parse(text: bytes | str | None, project_id: int) -> dict[str, Judgement]:
    try:
        return {field: _parse_one(values) for field, values in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError, KeyError) as problem:
        logger.warning("judgement of the memory not read project=%s problem=%s", project_id, problem)
        return {}


def _parse_one(values: Mapping[str, Any]) -> Judgement:
    evidence = _parse_evidence(values["evidence"]) if values["evidence"] else None
    style = tuple(StyleRule(**rule) for rule in values.get("style", ()))
    return Judgement(**{**values, "evidence": evidence, "style": style})


def _parse_evidence(values: Mapping[str, Any]) -> Evidence:
    experiment = values.get("experiment")
    return Evidence(**{**values, "experiment": Experiment(**experiment) if experiment else None})
