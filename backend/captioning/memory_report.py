"""What the memory of a project does beside its serving version, in words for people.

Everything comes from the stored judgements (backend/captioning/memory.py). Nothing is loaded or computed.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from redis import Redis, RedisError

from backend.captioning.judgement import Judgement, read_judgements
from backend.captioning.project_style import read_switched_off
from model.errors import CaptionerError
from model.memory.evidence import FEWEST, Evidence
from model.memory.experiment import Experiment
from worker.feedback.caption_changes import read_generation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WordingRule:
    """One rule of a project's wording, for people."""

    name: str
    field: str | None
    """Whose captions it changes; None if the corrections do not show it any more."""
    words: str
    is_off: bool


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """The memory of a project beside one version."""

    generation: int
    """Of the project's captions now. Label Studio shows it where the memory is open."""
    fields: Mapping[str, Judgement]
    """By field; none before the first judgement."""
    switched_off: tuple[str, ...] = ()
    """Names of the rules of wording that people have switched off."""

    @property
    def is_open(self) -> bool:
        """The memory may choose the suggestions of some field."""
        return any(judgement.is_open for judgement in self.fields.values())

    @property
    def learned(self) -> str:
        return learned_sentence(self.fields)

    @property
    def learned_in_short(self) -> str:
        """The same without measurements, for people who own a project."""
        return learned_sentence(self.fields, with_measures=False)

    @property
    def wording(self) -> tuple[WordingRule, ...]:
        """The rules that were found, and those that are switched off and were not found."""
        found = [
            WordingRule(name=rule.name, field=field, words=str(rule), is_off=rule.name in self.switched_off)
            for field, judgement in sorted(self.fields.items())
            for rule in judgement.style
        ]
        gone = sorted({*self.switched_off} - {rule.name for rule in found})
        return (*found, *(WordingRule(name=name, field=None, words=name, is_off=True) for name in gone))

    @property
    def standing(self) -> str:
        """How the memory stands, in a few words for a list."""
        if not self.fields:
            return "closed"
        return "; ".join(
            _of_field(field, self.fields) + _standing(judgement, self.generation)
            for field, judgement in sorted(self.fields.items())
        )


def read_memory_report(redis: Redis, project_id: int, version: str | None) -> MemoryReport | None:
    """Return what the memory does beside a version; None where that cannot be read, which is logged.

    Args:
        redis: of the project.
        project_id: of the project.
        version: the serving one; None if it is not known.
    """
    if version is None:
        return None
    try:
        judgements = read_judgements(redis, project_id, version)
        generation = read_generation(redis, project_id).number
        switched_off = tuple(sorted(read_switched_off(redis, project_id)))
        return MemoryReport(generation=generation, fields=judgements, switched_off=switched_off)
    except (RedisError, CaptionerError, OSError) as problem:
        logger.info("memory not reported project=%s problem=%s", project_id, problem)
        return None


def memory_json(report: MemoryReport) -> dict[str, Any]:
    """Return the report for programs."""
    wording = [asdict(rule) for rule in report.wording]
    return asdict(report) | {"is_open": report.is_open, "learned": report.learned, "wording": wording}


def learned_sentence(judgements: Mapping[str, Judgement], *, with_measures: bool = True) -> str:
    """Say what was learned from the last corrections, and what it is worth.

    Args:
        judgements: of the serving version, by field.
        with_measures: say how it was measured, too.
    """
    if not judgements:
        return "The corrections are not compared with the serving version yet. That happens with the next suggestion."
    return " ".join(
        _of_field(field, judgements) + _learned(judgement, with_measures)
        for field, judgement in sorted(judgements.items())
    )


def _of_field(field: str, judgements: Mapping[str, Judgement]) -> str:
    """Return the beginning that tells several fields apart."""
    return f"{field}: " if len(judgements) > 1 else ""


def _standing(judgement: Judgement, generation: int) -> str:
    return f"{judgement.rows} corrections, open, generation {generation}" if judgement.is_open else "closed"


def _learned(judgement: Judgement, with_measures: bool) -> str:
    if judgement.is_open:
        used = f"Suggestions for look-alike images use the words of {judgement.rows} corrections."
        return f"{used} {_worth(judgement.evidence, with_measures)}"
    if judgement.rows < FEWEST:
        return f"Too few corrections so far: {judgement.rows} of {FEWEST}."
    if judgement.evidence is None:
        return (
            "The serving version was trained on nearly all corrections, so they cannot show yet whether their own "
            "words would make better suggestions."
        )
    return _hindrance(judgement.evidence, with_measures)


def _worth(evidence: Evidence | None, with_measures: bool) -> str:
    if evidence is None:
        return (
            "An earlier comparison with the decoder alone spoke for that. The serving version was trained on nearly "
            "all of the corrections, so they cannot be compared with it yet."
        )
    if evidence.experiment is not None and evidence.experiment.is_won:
        groups = _groups(evidence.experiment) if with_measures else ""
        return f"Annotators keep more of their words than of those of the decoder alone{groups}."
    measured = f" (leave-one-out, {evidence.corrections} images: in {evidence.gains_in:.0%} of random samples)"
    measured = measured if with_measures else ""
    if evidence.gain > 0:
        return f"Compared with the decoder alone, they are nearer to what annotators wrote{measured}."
    return (
        "The decoder does not know images of this kind. It is not clear yet that the suggestions are nearer to what "
        f"annotators wrote than those of the decoder alone{measured}."
    )


def _hindrance(evidence: Evidence, with_measures: bool) -> str:
    """Say why the memory is closed. If a perfect gain would not open it, its captions say nothing about the images."""
    if not replace(evidence, gains_in=1.0, experiment=None).speaks_for_memory:
        return (
            "The captions do not clearly describe their own images better than shuffled captions would, so they are "
            "not used."
        )
    if evidence.experiment is not None and evidence.experiment.is_lost:
        groups = _groups(evidence.experiment) if with_measures else ""
        return (
            "Suggestions with the words of the corrections are not used, because annotators kept more words of the "
            f"suggestions of the decoder alone{groups}."
        )
    return (
        "Nothing to learn here yet: captions of look-alike images are not clearly nearer to what annotators wrote than "
        "the captions of the decoder alone."
    )


def _groups(experiment: Experiment) -> str:
    return f" (compared on {experiment.by_memory} images with the memory and {experiment.by_decoder} without)"
