"""The conversion of what version 0.1.0 kept in Redis (layout 1) into layout 2, once.

    captioner:corrections:<project>, captioner:ledger:<project>   become captioner:feedback:<project>
    captioner:set-aside:<project>                                 becomes captioner:excluded:<project>
    captioner:changes:<project>                                   its field `taken` becomes `claimed`
    captioner:ledger-index:<project>                              joins captioner:index:<project>

Suggestions, totals and what is trained or waiting stay as they are. Memories of removals and of the last pull are
dropped, so the next pull reads every task and corrects whatever differs from Label Studio. Each project's old keys stay
until all of its records are converted, and each record is converted by one command that does nothing the second time.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from redis import Redis
from rq.utils import as_text

from model.errors import CaptionerError
from worker.feedback.proposals import Proposal, judge
from worker.feedback.record import Feedback, Submission
from worker.feedback.script import Command, key, run_commands
from worker.feedback.totals import to_stored_json

logger = logging.getLogger(__name__)

OLD_NOUNS = ("corrections", "ledger", "ledger-index", "ledger-removed", "removed", "set-aside", "pulled")
AT_ONCE = 1000
OF_CORRECTION = ("annotation_uid", "image_ref", "image_key", "proposed", "ground_truth", "request_id")
OF_LEDGER = ("arm", "model_version", "suggestion", "score", "outcome", "word_edits", "kinds", "counts", "words")
OF_BOTH = ("project_id", "task_id", "annotation_id", "control", "caption", "annotator", "lead_time_s", "updated_at")

Values = dict[str, Any]


def convert_projects(redis: Redis, on_progress: Callable[[], object]) -> None:
    """Convert every project; an empty Redis has none.

    Args:
        on_progress: called after every few hundred records.
    """
    for project_id in sorted(set(_projects(redis))):
        converted = 0
        for noun in ("corrections", "ledger"):
            for names in _names(redis, noun, project_id):
                converted += _convert(redis, noun, project_id, names)
                on_progress()
                logger.info("converting to layout 2 project=%s records=%s", project_id, converted)
        _finish(redis, project_id)
        logger.info("converted to layout 2 project=%s", project_id)


def _projects(redis: Redis) -> Iterator[int]:
    for noun in OLD_NOUNS:
        names = redis.scan_iter(match=f"captioner:{noun}:*", count=AT_ONCE)
        yield from (int(number) for name in names if (number := as_text(name).rpartition(":")[2]).isdecimal())


def _names(redis: Redis, noun: str, project_id: int) -> Iterator[list[str]]:
    """Yield the names in a hash, some at a time; a name may come twice."""
    names = (as_text(name) for name, _ in redis.hscan_iter(key(noun, project_id), count=AT_ONCE))
    while batch := list(islice(names, AT_ONCE)):
        yield batch


def _convert(redis: Redis, noun: str, project_id: int, names: list[str]) -> int:
    """Convert the records with these names; returns how many that were."""
    corrections = redis.hmget(key("corrections", project_id), names)
    records = redis.hmget(key("ledger", project_id), names)
    # What the ledger shares with the corrections was converted with them.
    rows = [
        (name, correction, record)
        for name, correction, record in zip(names, corrections, records, strict=True)
        if noun == "corrections" or correction is None
    ]
    commands = [command for row in rows if (command := _command(*row)) is not None]
    if commands:
        run_commands(redis, "", project_id, commands)
    return len(rows)


def _command(name: str, correction: bytes | str | None, record: bytes | str | None) -> Command | None:
    """Return what stores a record that was a correction, a record of the ledger, or both."""
    try:
        of_correction: Values | None = json.loads(correction) if correction else None
        of_ledger: Values | None = json.loads(record) if record else None
        if of_correction is not None and of_correction["annotation_uid"] == str(of_correction["annotation_id"]):
            of_correction["annotation_uid"] = ""  # what a pull wrote, which does not know the UUID
        merged, counted = _merge(of_correction, of_ledger)
        feedback = Feedback.from_json(json.dumps(merged))
        time = "" if of_correction is None else str(feedback.microseconds)
    except (CaptionerError, ValueError, TypeError, KeyError) as problem:
        logger.warning("feedback not converted name=%s problem=%s", name, problem)
        return None
    return Command("adopt", (name, json.dumps(merged, ensure_ascii=False), time, counted))


def _merge(correction: Values | None, record: Values | None) -> tuple[Values, str]:
    """Return the record as it is stored now, and what the totals have counted of it."""
    counted = "" if record is None else json.dumps(record, ensure_ascii=False)
    if correction is None and record is not None:
        return _without_none({"annotation_uid": "", "image_ref": "", **_pick(record, OF_BOTH + OF_LEDGER)}), "same"
    assert correction is not None
    if record is not None and (record["updated_at"], record["caption"]) == (
        correction["updated_at"],
        correction["caption"],
    ):
        return _without_none(_pick(correction, OF_BOTH + OF_CORRECTION) | _pick(record, OF_LEDGER)), "same"
    submission = Submission(**{name: value for name, value in correction.items() if name in _OF_SUBMISSION})
    proposed = correction["proposed"]
    proposal = Proposal(
        arm="none" if proposed is None else "shown",
        caption=proposed,
        model_version=correction["model_version"],
        captions=() if proposed is None else (proposed,),
        image_key=correction["image_key"],
    )
    return json.loads(to_stored_json(judge(submission, proposal))), counted


_OF_SUBMISSION = {*OF_BOTH, "annotation_uid", "image_ref", "ground_truth", "request_id"}


def _finish(redis: Redis, project_id: int) -> None:
    """Convert what is not a record, and drop the old keys: all or nothing."""
    excluded: dict[Any, Any] = {
        as_text(name): json.dumps({"reason": why["reason"], "automatic": why["by_job"]}, ensure_ascii=False)
        for name, text in redis.hgetall(key("set-aside", project_id)).items()
        for why in [json.loads(text)]
    }
    claimed = redis.hget(key("changes", project_id), "taken")
    with redis.pipeline(transaction=True) as pipeline:
        if excluded:
            pipeline.hset(key("excluded", project_id), mapping=excluded)
        if claimed is not None:
            pipeline.hset(key("changes", project_id), "claimed", claimed)
            pipeline.hdel(key("changes", project_id), "taken")
        pipeline.unlink(*(key(noun, project_id) for noun in OLD_NOUNS))
        pipeline.execute()


def _pick(values: Mapping[str, Any], names: tuple[str, ...]) -> Values:
    return {name: values[name] for name in names if name in values}


def _without_none(values: Values) -> Values:
    return {name: value for name, value in values.items() if value is not None}
