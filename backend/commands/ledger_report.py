"""The ledger as a person reads it: tables for a terminal, JSON, and CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from worker.feedback.edit_kinds import EDIT_KINDS
from worker.feedback.record import Feedback
from worker.feedback.score_calibration import Calibration
from worker.feedback.totals import ArmTally, Ledger, Tally

COUNTS = (
    "tasks",
    "accepted",
    "alternative",
    "edited",
    "rewritten",
    "written",
    "skipped",
    "judged",
    "captions",
    "compared",
    "timed",
)
RATES = (
    "accepted_rate",
    "alternative_rate",
    "edited_rate",
    "rewritten_rate",
    "skipped_rate",
    "changed_rate",
    "mean_word_edits",
    "mean_words",
    "mean_lead_time_s",
    "median_lead_time_s",
)
CSV_COLUMNS = (
    *("project_id", "task_id", "annotation_id", "control", "annotator", "arm", "model_version", "suggestion", "score"),
    *("outcome", "caption", "word_edits", "kinds", "lead_time_s", "updated_at"),
    *("generation", "like"),
)
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins with one of these would be a formula in a spreadsheet, whoever wrote it."""


def ledger_lines(ledger: Ledger, calibration: Calibration | None, *, with_arms: bool) -> Iterator[str]:
    """Yield the ledger's tables.

    Args:
        ledger: the totals.
        calibration: how scores were fitted to acceptance; None if scores are the decoder's own.
        with_arms: compare shown and withheld suggestions, even if one of the two has no captions yet.
    """
    if ledger.versions:
        yield from _outcome_lines(ledger)
        yield ""
        yield from _kind_lines(ledger)
    else:
        yield "no suggestions and no annotations yet"
    if with_arms or ledger.has_both_arms:
        yield ""
        yield from _arm_lines(ledger)
    if calibration is not None:
        yield ""
        yield (
            f"A score is the chance of acceptance, fitted on {calibration.judged} judged suggestions. "
            f"Expected calibration error: {calibration.error:.1%}; without the fit: {calibration.error_before:.1%}."
        )


def ledger_json(ledger: Ledger, calibration: Calibration | None) -> dict[str, Any]:
    """Return all totals; a rate is 0 to 1, or null without data."""
    return {
        "calibration": None if calibration is None else asdict(calibration),
        "versions": [{"version": name, **_tally_json(tally)} for name, tally in ledger.versions.items()],
        "annotators": [{"annotator": name, **_tally_json(tally)} for name, tally in ledger.annotators.items()],
        "annotators_by_version": [
            {"annotator": annotator, "version": version, **_tally_json(tally)}
            for (annotator, version), tally in ledger.cells.items()
        ],
        "arms": {
            "distinct_words_in_captions": ledger.vocabulary_sample,
            "shown": _arm_json(ledger.shown, ledger.vocabulary_sample),
            "withheld": _arm_json(ledger.withheld, ledger.vocabulary_sample),
        },
    }


def csv_lines(records: Iterable[Feedback]) -> Iterator[str]:
    """Yield the column names and a line for each record; no cell can become a formula."""
    line = io.StringIO(newline="")
    writer = csv.writer(line)
    rows = ([_value(record, column) for column in CSV_COLUMNS] for record in records)
    for row in chain([CSV_COLUMNS], rows):
        writer.writerow(_cell(value) for value in row)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _outcome_lines(ledger: Ledger) -> Iterator[str]:
    titles = ("judged", "accepted", "another", "edited", "rewritten", "skipped", "written", "edits", "seconds")
    versions = [(name or "(none)", [str(tally.tasks), *_outcomes(tally)]) for name, tally in ledger.versions.items()]
    yield from _table("version", ("shown", *titles), versions)
    yield ""
    yield from _table("annotator", titles, [(str(name), _outcomes(tally)) for name, tally in ledger.annotators.items()])
    yield "another: the annotator chose another suggestion; edits: mean changed words; seconds: median lead time"


def _outcomes(tally: Tally) -> list[str]:
    return [
        str(tally.judged),
        _percent(tally.accepted_rate),
        _percent(tally.alternative_rate),
        _percent(tally.edited_rate),
        _percent(tally.rewritten_rate),
        _percent(tally.skipped_rate),
        str(tally.written),
        _number(tally.mean_word_edits),
        _number(tally.median_lead_time_s),
    ]


def _kind_lines(ledger: Ledger) -> Iterator[str]:
    rows = [
        (name or "(none)", [str(tally.edited), *(_percent(tally.kind_rate(kind)) for kind in EDIT_KINDS)])
        for name, tally in ledger.versions.items()
    ]
    yield from _table("edits change", ("edited", *EDIT_KINDS), rows)
    yield "The kinds come from the words that were added and removed. One edit can be of several kinds."


def _arm_lines(ledger: Ledger) -> Iterator[str]:
    sample = ledger.vocabulary_sample
    arms = (ledger.shown, ledger.withheld)
    tallies = [arm.tally for arm in arms]
    rows = [
        ("captions", [str(tally.captions) for tally in tallies]),
        ("words, mean", [_number(tally.mean_words) for tally in tallies]),
        (f"distinct words in {sample} captions", [_number(_distinct_words(arm, sample)) for arm in arms]),
        ("different from ours", [_percent(tally.changed_rate) for tally in tallies]),
        ("changed words, mean", [_number(tally.mean_word_edits) for tally in tallies]),
        ("skipped", [_percent(tally.skipped_rate) for tally in tallies]),
        ("lead time in s, median", [_number(tally.median_lead_time_s) for tally in tallies]),
    ]
    yield from _table("suggestion was", ("shown", "withheld"), rows)


def _table(corner: str, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    lines = [[corner, *titles], *([name, *cells] for name, cells in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _tally_json(tally: Tally) -> dict[str, Any]:
    return {name: getattr(tally, name) for name in COUNTS + RATES} | {"kinds": dict(tally.kinds)}


def _arm_json(arm: ArmTally, sample: int) -> dict[str, Any]:
    return _tally_json(arm.tally) | {"distinct_words": _distinct_words(arm, sample)}


def _distinct_words(arm: ArmTally, sample: int) -> float | None:
    return arm.distinct_words(sample) if sample else None


def _value(record: Feedback, column: str) -> Any:
    value = getattr(record, column)
    return " ".join(value) if isinstance(value, tuple) else value


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value
