"""The ledger: counts of what annotators did with our suggestions, by model version and by annotator.

Annotators who are shown a suggestion write shorter captions, which are nearer to it (Arnold, Chauncey and Gajos 2020,
https://doi.org/10.1145/3377325.3377523). So HIDE_SUGGESTIONS_SHARE withholds some suggestions, and captions without a
suggestion are counted apart. Versions and annotators count only tasks whose suggestion was not withheld.
"""

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from itertools import islice
from math import comb
from typing import NamedTuple, TypeVar, cast

from redis import Redis
from rq.utils import as_text

from worker.feedback.edit_kinds import EDIT_KINDS, EditKind
from worker.feedback.proposals import words
from worker.feedback.record import Arm, Feedback, Outcome
from worker.feedback.script import key

Key = TypeVar("Key")

JUDGED: tuple[Outcome, ...] = ("accepted", "alternative", "edited", "rewritten")
"""Outcomes of a suggestion that was shown, where the annotator submitted a caption."""
ACCEPTANCE = (*JUDGED, "word_edits", "compared")
"""Counters of which an Acceptance is made."""
LONGEST_LEAD_TIME_S = 24 * 3600.0
"""A longer one is a page that stayed open; it counts as this much."""
LEAD_TIME_STEP = 1.1
"""Lead times are counted by their power of this, so that a median is known to 5 %."""
SHORTEST_LEAD_TIME_S = 0.1
TOOK = "took_"
"""The beginning of a counter of lead times; its power follows."""
WEEKS_SHOWN = 12
VOCABULARY_SAMPLE = 100
"""Captions whose distinct words are compared; fewer where an arm has fewer."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of outcomes. Rates are 0 to 1; rates and means are None while nothing was counted."""

    tasks: int = 0
    """Tasks with a suggestion; each control counts once for each version."""
    accepted: int = 0
    alternative: int = 0
    """The annotator chose another suggestion of the same version."""
    edited: int = 0
    rewritten: int = 0
    written: int = 0
    """The annotator was shown no suggestion."""
    skipped: int = 0
    words: int = 0
    compared: int = 0
    """Captions for which there was a suggestion, shown or withheld."""
    word_edits: int = 0
    unchanged: int = 0
    """Captions with the same words as the suggestion."""
    timed: int = 0
    """Captions whose lead time is known."""
    lead_time_ms: int = 0
    lead_times: Mapping[int, int]
    """Number of captions by power: they took about SHORTEST_LEAD_TIME_S times LEAD_TIME_STEP to this power."""
    kinds: Mapping[EditKind, int]
    """Kinds of edits; one edit may have several."""

    @property
    def judged(self) -> int:
        return self.accepted + self.alternative + self.edited + self.rewritten

    @property
    def captions(self) -> int:
        return self.judged + self.written

    @property
    def accepted_rate(self) -> float | None:
        return _share(self.accepted, self.judged)

    @property
    def alternative_rate(self) -> float | None:
        return _share(self.alternative, self.judged)

    @property
    def edited_rate(self) -> float | None:
        return _share(self.edited, self.judged)

    @property
    def rewritten_rate(self) -> float | None:
        return _share(self.rewritten, self.judged)

    @property
    def skipped_rate(self) -> float | None:
        return _share(self.skipped, self.captions + self.skipped)

    def kind_rate(self, kind: EditKind) -> float | None:
        return _share(self.kinds[kind], self.edited)

    @property
    def changed_rate(self) -> float | None:
        """Share of the captions that differ from the suggestion in any word."""
        return _share(self.compared - self.unchanged, self.compared)

    @property
    def mean_word_edits(self) -> float | None:
        return _share(self.word_edits, self.compared)

    @property
    def mean_words(self) -> float | None:
        return _share(self.words, self.captions)

    @property
    def mean_lead_time_s(self) -> float | None:
        return _share(self.lead_time_ms / 1000, self.timed)

    @property
    def median_lead_time_s(self) -> float | None:
        """Median to 5 %; unlike the mean it hardly moves with one long break."""
        counted = 0
        for power, captions in sorted(self.lead_times.items()):
            counted += captions
            if 2 * counted >= self.timed:
                return SHORTEST_LEAD_TIME_S * LEAD_TIME_STEP**power
        return None


@dataclass(frozen=True, kw_only=True)
class ArmTally:
    """Counts of the captions that were written with a suggestion, or of those whose suggestion was withheld."""

    tally: Tally
    spectrum: Mapping[int, int]
    """Number of words by the number of captions that contain them."""

    def distinct_words(self, sample: int) -> float:
        """Return the mean number of distinct words in so many captions drawn at random.

        Unlike a count of all words, this compares arms of different sizes (rarefaction, Hurlbert 1971,
        https://doi.org/10.2307/1934145).
        """
        captions = self.tally.captions
        draws = comb(captions, sample)
        return sum(words * (1 - comb(captions - held, sample) / draws) for held, words in self.spectrum.items())


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Counts of one project."""

    versions: Mapping[str | None, Tally]
    """By model version, in the order of their numbers; None where there was no suggestion, or its version is lost."""
    annotators: Mapping[int, Tally]
    """By Label Studio's user id, all versions together; `tasks` is 0, because nobody knows who opens a task."""
    cells: Mapping[tuple[int, str | None], Tally]
    """By annotator and version."""
    shown: ArmTally
    withheld: ArmTally

    @property
    def has_both_arms(self) -> bool:
        return self.vocabulary_sample > 0

    @property
    def vocabulary_sample(self) -> int:
        """Number of captions to draw from each arm to compare their words."""
        return min(VOCABULARY_SAMPLE, self.shown.tally.captions, self.withheld.tally.captions)


@dataclass(frozen=True, kw_only=True)
class Week:
    """Counts of the captions that were submitted, or changed last, in one week."""

    monday: str
    """Its first day as an ISO 8601 date. Weeks begin and end at midnight UTC."""
    shown: Tally
    """Of captions that began as a suggestion."""
    alone: Tally
    """Of captions that were written without a suggestion."""

    @property
    def captions(self) -> int:
        return self.shown.captions + self.alone.captions

    @property
    def saved_rate(self) -> float | None:
        """Share of the words of captions that nobody had to change; below 0 where more was changed than was written."""
        return _share(self.shown.words - self.shown.word_edits, self.shown.words)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Number of suggestions of one version that were accepted unchanged, beside the number that were judged."""

    accepted: int
    judged: int
    word_edits: int
    compared: int
    """Captions whose word edits were counted."""


def to_stored_json(feedback: Feedback) -> str:
    """Return the record beside what it adds to the totals, so that exactly this can be taken away again."""
    of_arm = () if feedback.arm == "none" else words(feedback.caption or "")
    counts, week = count_feedback(feedback), monday_of(feedback.updated_at)
    return feedback.to_json(counts=counts, words=sorted(set(of_arm)), week=week)


def count_feedback(feedback: Feedback) -> dict[str, int]:
    """Return what the record adds to each counter, where that is not 0."""
    counts: dict[str, int] = {feedback.outcome: 1} | dict.fromkeys(feedback.kinds, 1)
    if feedback.caption is None:
        return counts
    counts["words"] = len(words(feedback.caption))
    if feedback.word_edits is not None:
        counts |= {
            "compared": 1,
            "word_edits": feedback.word_edits,
            "unchanged": int(feedback.word_edits == 0),
        }
    if feedback.lead_time_s is not None:
        lead_time_s = min(feedback.lead_time_s, LONGEST_LEAD_TIME_S)
        times = max(lead_time_s, SHORTEST_LEAD_TIME_S) / SHORTEST_LEAD_TIME_S
        took = f"{TOOK}{round(math.log(times, LEAD_TIME_STEP))}"
        counts |= {"timed": 1, "lead_time_ms": round(lead_time_s * 1000), took: 1}
    return {counter: number for counter, number in counts.items() if number}


def read_ledger(redis: Redis, project_id: int) -> Ledger:
    """Return a project's counts; this costs the same for any number of annotations."""
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(key("ledger-totals", project_id))
        pipeline.hgetall(key("ledger-spectrum", project_id))
        totals, spectrum = pipeline.execute()
    cells = _cells(totals)
    everybody = {cell: counts for cell, counts in cells.items() if cell.annotator is None and cell.arm != "withheld"}
    named = {cell: counts for cell, counts in cells.items() if cell.annotator is not None and cell.arm != "withheld"}
    versions = _sums((cell.model_version, counts) for cell, counts in everybody.items())
    annotators = _sums((int(cell.annotator or 0), counts) for cell, counts in named.items())
    arms = _sums((cell.arm, counts) for cell, counts in cells.items() if cell.annotator is None)
    return Ledger(
        versions=dict(sorted(versions.items(), key=lambda row: _version_order(row[0]))),
        annotators=dict(sorted(annotators.items())),
        cells=_sums(((int(cell.annotator or 0), cell.model_version), counts) for cell, counts in named.items()),
        shown=ArmTally(tally=arms.get("shown", _tally({})), spectrum=_spectrum(spectrum, "shown")),
        withheld=ArmTally(tally=arms.get("withheld", _tally({})), spectrum=_spectrum(spectrum, "withheld")),
    )


def read_acceptance(redis: Redis, project_id: int, versions: Sequence[str]) -> dict[str, Acceptance]:
    """Return the acceptance of each version; one small request."""
    return read_acceptances(redis, {project_id: versions})[project_id]


def read_acceptances(redis: Redis, versions: Mapping[int, Sequence[str]]) -> dict[int, dict[str, Acceptance]]:
    """Return the acceptance of each version of several projects; one small request for each, all at once."""
    named = {project_id: names for project_id, names in versions.items() if names}
    with redis.pipeline(transaction=False) as pipeline:
        for project_id, names in named.items():
            counters = [f"{counter}:shown::{name}" for name in names for counter in ACCEPTANCE]
            pipeline.hmget(key("ledger-totals", project_id), counters)
        replies = dict(zip(named, pipeline.execute(), strict=True))
    return {project_id: _acceptances(names, replies.get(project_id, ())) for project_id, names in versions.items()}


def _acceptances(names: Sequence[str], numbers: Iterable[bytes | str | None]) -> dict[str, Acceptance]:
    counts = iter([int(number or 0) for number in numbers])
    acceptances = {}
    for name in names:
        *judged, word_edits, compared = [next(counts) for _ in ACCEPTANCE]
        acceptances[name] = Acceptance(accepted=judged[0], judged=sum(judged), word_edits=word_edits, compared=compared)
    return acceptances


def read_weeks(redis: Redis, project_id: int) -> tuple[Week, ...]:
    """Return the counts of the last WEEKS_SHOWN weeks in which there was a caption, newest first."""
    counts: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for field, number in redis.hgetall(key("ledger-weeks", project_id)).items():
        counter, arm, monday = as_text(field).split(":")
        counts[monday]["shown" if arm == "shown" else "alone"][counter] += int(number)
    weeks = (
        Week(monday=monday, shown=_tally(counts[monday]["shown"]), alone=_tally(counts[monday]["alone"]))
        for monday in sorted(counts, reverse=True)
    )
    return tuple(islice((week for week in weeks if week.captions), WEEKS_SHOWN))


def monday_of(updated_at: str) -> str:
    """Return the date of the Monday on or before a time, both in UTC."""
    day = datetime.fromisoformat(updated_at).date()
    return (day - timedelta(days=day.weekday())).isoformat()


class _Cell(NamedTuple):
    """Place of a number in the totals."""

    arm: Arm
    annotator: int | None
    """None for all annotators together."""
    model_version: str | None


def _cells(totals: Mapping[bytes | str, bytes | str]) -> dict[_Cell, Counter[str]]:
    cells: defaultdict[_Cell, Counter[str]] = defaultdict(Counter)
    for field, number in totals.items():
        counter, arm, annotator, version = as_text(field).split(":", 3)
        place = _Cell(cast(Arm, arm), int(annotator) if annotator else None, version or None)
        cells[place][counter] = int(number)
    return cells


def _sums(cells: Iterable[tuple[Key, Counter[str]]]) -> dict[Key, Tally]:
    sums: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    for group, counts in cells:
        sums[group].update(counts)
    return {group: _tally(counts) for group, counts in sums.items()}


def _tally(counts: Mapping[str, int]) -> Tally:
    plain = {declared.name for declared in fields(Tally)} & set(counts)
    took = {name.removeprefix(TOOK): number for name, number in counts.items() if name.startswith(TOOK)}
    return Tally(
        kinds={kind: counts.get(kind, 0) for kind in EDIT_KINDS},
        lead_times={int(power): number for power, number in took.items()},
        **{name: counts[name] for name in plain},
    )


def _spectrum(spectrum: Mapping[bytes | str, bytes | str], arm: Arm) -> dict[int, int]:
    numbers = {tuple(as_text(field).split(":")): int(number) for field, number in spectrum.items()}
    return {int(captions): number for (name, captions), number in numbers.items() if name == arm}


def _version_order(name: str | None) -> tuple[int, str]:
    """Sort v2 before v10, the bundle's version before both, and None last."""
    if name is None:
        return sys.maxsize, ""
    number = re.match(r"v(\d+)-", name)
    return (int(number[1]) if number else 0), name


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
