"""The records of the ledger: what one annotation made of what we suggested, and how Redis is told.

`worker/feedback/totals.py` reads the totals, `worker/feedback/ledger_scripts.py` shows how both are kept. RedisError is
never caught here: the backend answers 503 and the pull repairs it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, Self

from redis import Redis

from model.metrics.scores import word_edits
from model.metrics.words import Words, metric_words
from worker.feedback.corrections import Correction, utc
from worker.feedback.edit_kinds import EditKind, edit_kinds
from worker.feedback.ledger_scripts import REMOVE, STORE, cell, ledger_key, ledger_keys
from worker.feedback.suggestions import Suggestion, seen_suggestions

Outcome = Literal["accepted", "alternative", "edited", "rewritten", "written", "skipped"]
Arm = Literal["shown", "withheld", "none"]

REWRITTEN_BELOW = 0.5
"""A caption that keeps a smaller share of our words than this, wherever they stand, is rewritten and not edited."""
COMPARED_CHARACTERS = 2000
"""What stands beyond them is not compared: a webhook has one second."""
LONGEST_LEAD_TIME_S = 24 * 3600.0
"""A longer one is a page that stayed open; it counts as this much."""
LEAD_TIME_STEP = 1.1
"""Lead times are counted by their power of this, so that a median is known to 5 %."""
SHORTEST_LEAD_TIME_S = 0.1
TOOK = "took_"
"""How a counter of lead times begins; its power follows."""
RECORDS_AT_ONCE = 500
"""Read in one question, so that a long ledger keeps Redis from nobody."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """One control of a task that an annotator skipped; what was suggested there is looked up later.

    Raises CorrectionError when updated_at is no point in time.
    """

    project_id: int
    task_id: int
    annotation_id: int
    control: str
    image_ref: str
    prefilled: str | None
    """The suggestion that stood in the field unchanged; None when it was empty or somebody typed."""
    annotator: int | None
    lead_time_s: float | None
    updated_at: str
    """ISO 8601 in UTC with microseconds; other forms are brought into this one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "updated_at", utc(self.annotation_id, self.updated_at))


@dataclass(frozen=True, kw_only=True)
class LedgerRecord:
    """What one annotation made of what we suggested for one control."""

    project_id: int
    task_id: int
    annotation_id: int
    control: str
    annotator: int | None
    arm: Arm
    """Whether the annotator was shown our suggestion; `none` when there was none."""
    model_version: str | None
    """The version that suggested; None when there was no suggestion, or nobody remembers which one it was."""
    suggestion: str | None
    """The version's best caption."""
    score: float | None
    """The decoder's own of it, 0 to 1."""
    outcome: Outcome
    caption: str | None
    """What the annotator submitted; None when skipped."""
    word_edits: int | None
    """From our suggestion to the caption; None when there is only one of them."""
    kinds: tuple[EditKind, ...]
    """Of an edit; of a rewritten caption nothing can be told."""
    lead_time_s: float | None
    updated_at: str
    """ISO 8601 in UTC with microseconds."""

    @property
    def name(self) -> str:
        """Its field in the ledger; the same as the correction's in the inbox."""
        return f"{self.annotation_id}/{self.control}"

    def to_json(self) -> str:
        """Return the record beside what it adds to the totals."""
        everybody = cell(self.arm, None, self.model_version)
        annotator = [] if self.annotator is None else [cell(self.arm, self.annotator, self.model_version)]
        words = () if self.arm == "none" else _words(self.caption or "")
        added = {"counts": self.counts(), "cells": [everybody, *annotator], "words": sorted(set(words))}
        return json.dumps(asdict(self) | added, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        values: dict[str, Any] = json.loads(text)
        known: dict[str, Any] = {declared.name: values.get(declared.name) for declared in fields(cls)}
        return cls(**known | {"kinds": tuple(known["kinds"])})

    def counts(self) -> dict[str, int]:
        """Return what it adds to each counter of its cells, where that is not 0."""
        counts: dict[str, int] = {self.outcome: 1} | dict.fromkeys(self.kinds, 1)
        if self.caption is None:
            return counts
        counts["words"] = len(_words(self.caption))
        if self.word_edits is not None:
            counts |= {"compared": 1, "word_edits": self.word_edits, "unchanged": int(self.word_edits == 0)}
        if self.lead_time_s is not None:
            lead_time_s = min(self.lead_time_s, LONGEST_LEAD_TIME_S)
            counts |= {"timed": 1, "lead_time_ms": round(lead_time_s * 1000), _took(lead_time_s): 1}
        return {counter: number for counter, number in counts.items() if number}


class LedgerRecords:
    """The newest record of each annotation and control, and the totals of all."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def store(self, record: LedgerRecord) -> bool:
        """Keep the record for an older one; False when an equal or newer one is there, or was and is removed."""
        script = self.redis.register_script(STORE)
        return bool(script(keys=ledger_keys(record.project_id), args=[record.name, record.to_json()]))

    def remove(self, project_id: int, annotation_ids: Iterable[int]) -> int:
        """Take these annotations out of the ledger; returns how many records that were."""
        return self._remove(project_id, [[f"a:{annotation_id}/"] for annotation_id in annotation_ids])

    def remove_controls(self, project_id: int, controls: Iterable[tuple[int, str]]) -> int:
        """Take single controls of annotations (annotation id, from_name) out, while their others stay."""
        entries = [f"a:{annotation_id}/{control}" for annotation_id, control in controls]
        return self._remove(project_id, [[entry, f"[{entry}"] for entry in entries])

    def forget_tasks(self, project_id: int, task_ids: Iterable[int]) -> int:
        """Take every record of these tasks out; that their suggestions were shown stays counted."""
        return self._remove(project_id, [[f"t:{task_id}:"] for task_id in task_ids])

    def records(self, project_id: int) -> Iterator[LedgerRecord]:
        """Yield the project's records by annotation id."""
        places = sorted((annotation_id, control) for _, annotation_id, control in self.places(project_id))
        names = [f"{annotation_id}/{control}" for annotation_id, control in places]
        for start in range(0, len(names), RECORDS_AT_ONCE):
            texts = self.redis.hmget(ledger_key("ledger", project_id), names[start : start + RECORDS_AT_ONCE])
            yield from (LedgerRecord.from_json(text) for text in texts if text is not None)

    def sample(self, project_id: int, count: int) -> list[LedgerRecord]:
        """Return so many of the project's records drawn at random, or all if there are no more."""
        drawn: Any = self.redis.hrandfield(ledger_key("ledger", project_id), count, withvalues=True)
        return [LedgerRecord.from_json(text) for text in drawn[1::2]]

    def places(self, project_id: int) -> list[tuple[int, int, str]]:
        """Return task id, annotation id and control of every record, without reading the records."""
        entries = self.redis.zrangebylex(ledger_key("ledger-index", project_id), "[t:", "(t;")
        return [_place(entry.decode() if isinstance(entry, bytes) else entry) for entry in entries]

    def _remove(self, project_id: int, entries: Sequence[Sequence[str]]) -> int:
        script = self.redis.register_script(REMOVE)
        with self.redis.pipeline(transaction=False) as pipeline:
            for arguments in entries:
                script(keys=ledger_keys(project_id), args=arguments, client=pipeline)
            return sum(pipeline.execute())


def record_submission(correction: Correction, suggestions: Sequence[Suggestion]) -> LedgerRecord:
    """Return what a submitted caption made of what we suggested.

    Args:
        suggestions: for its control, task and image, newest first; withheld ones among them.
    """
    offer = _offer(correction.proposed, correction.model_version, suggestions)
    return _record(correction, offer, _outcome(offer, correction.caption), correction.caption)


def record_skip(skip: Skip, suggestions: Sequence[Suggestion]) -> LedgerRecord:
    """Return that what we suggested, if anything, was skipped.

    Args:
        suggestions: for its control, task and image, newest first; withheld ones among them.
    """
    shown = seen_suggestions(suggestions, was_prefilled=skip.prefilled is not None)
    newest = shown[0] if shown else None
    proposed = next((known for known in shown if known.caption == skip.prefilled), newest)
    if proposed is None:
        return _record(skip, _offer(skip.prefilled, None, suggestions), "skipped", None)
    return _record(skip, _offer(proposed.caption, proposed.model_version, suggestions), "skipped", None)


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """What we had for an annotator."""

    arm: Arm
    model_version: str | None = None
    captions: tuple[str, ...] = ()
    """Of this version, best first; one at least unless the arm is `none`."""
    score: float | None = None
    """Of the best one."""


def _offer(proposed: str | None, model_version: str | None, suggestions: Sequence[Suggestion]) -> _Offer:
    if proposed is not None:
        mine = [known for known in suggestions if known.model_version == model_version and not known.withheld]
        captions = tuple(known.caption for known in mine) or (proposed,)
        score = mine[0].score if mine else None
        return _Offer(arm="shown", model_version=model_version, captions=captions, score=score)
    if suggestions and suggestions[0].withheld:
        best = suggestions[0]
        return _Offer(arm="withheld", model_version=best.model_version, captions=(best.caption,), score=best.score)
    return _Offer(arm="none")


def _outcome(offer: _Offer, caption: str) -> Outcome:
    if offer.arm != "shown":
        return "written"
    best, *alternatives = offer.captions
    if caption == best:
        return "accepted"
    if caption in alternatives:
        return "alternative"
    return "rewritten" if _kept_share(_words(best), _words(caption)) < REWRITTEN_BELOW else "edited"


def _kept_share(before: Words, after: Words) -> float:
    return (Counter(before) & Counter(after)).total() / len(before) if before else 0.0


def _record(source: Correction | Skip, offer: _Offer, outcome: Outcome, caption: str | None) -> LedgerRecord:
    best = offer.captions[0] if offer.captions else None
    edits: int | None = None
    kinds: tuple[EditKind, ...] = ()
    if best is not None and caption is not None:
        before, after = _words(best), _words(caption)
        edits = word_edits(before, after)
        kinds = edit_kinds(before, after) if outcome == "edited" else ()
    return LedgerRecord(
        project_id=source.project_id,
        task_id=source.task_id,
        annotation_id=source.annotation_id,
        control=source.control,
        annotator=source.annotator,
        arm=offer.arm,
        model_version=offer.model_version,
        suggestion=best,
        score=offer.score,
        outcome=outcome,
        caption=caption,
        word_edits=edits,
        kinds=kinds,
        lead_time_s=source.lead_time_s,
        updated_at=source.updated_at,
    )


def _took(lead_time_s: float) -> str:
    """Return the counter of lead times about as long as this one."""
    times = max(lead_time_s, SHORTEST_LEAD_TIME_S) / SHORTEST_LEAD_TIME_S
    return f"{TOOK}{round(math.log(times, LEAD_TIME_STEP))}"


@lru_cache(maxsize=64)
def _words(caption: str) -> Words:
    return metric_words(caption[:COMPARED_CHARACTERS])


def _place(entry: str) -> tuple[int, int, str]:
    """Read `t:<task id>:<annotation id>/<control>`."""
    _, task_id, name = entry.split(":", 2)
    annotation_id, control = name.split("/", 1)
    return int(task_id), int(annotation_id), control
