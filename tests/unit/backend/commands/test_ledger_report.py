"""The ledger as a terminal, a program and a spreadsheet get it."""

import csv
import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from backend.commands.ledger_report import CSV_COLUMNS, csv_lines, ledger_json, ledger_lines
from tests.factories import make_correction
from worker.feedback.edit_kinds import EDIT_KINDS
from worker.feedback.score_calibration import Calibration
from worker.feedback.totals import ArmTally, Ledger, Tally


def make_tally(**counts: Any) -> Tally:
    kinds = dict.fromkeys(EDIT_KINDS, 0) | counts.pop("kinds", {})
    return Tally(kinds=kinds, **{"lead_times": {}} | counts)


def make_ledger(**changes: Any) -> Ledger:
    nothing = ArmTally(tally=make_tally(), spectrum={})
    judged = make_tally(
        tasks=12,
        accepted=5,
        alternative=1,
        edited=3,
        rewritten=1,
        skipped=2,
        compared=10,
        word_edits=15,
        timed=10,
        lead_time_ms=90_000,
        lead_times={50: 10},
        kinds={"count": 1, "attribute": 2},
    )
    values: dict[str, Any] = {
        "versions": {"photos-1a2b3c4d": judged, "v2-9f8e7d6c": make_tally(tasks=40), None: make_tally(written=4)},
        "annotators": {7: replace(judged, tasks=0)},
        "cells": {(7, "photos-1a2b3c4d"): replace(judged, tasks=0)},
        "shown": nothing,
        "withheld": nothing,
    }
    return Ledger(**values | changes)


def test_the_table_shows_rates_in_per_cent_and_a_dash_without_data() -> None:
    lines = [" ".join(line.split()) for line in ledger_lines(make_ledger(), None, with_arms=False)]

    assert lines[:4] == [
        "version shown judged accepted another edited rewritten skipped written edits seconds",
        "photos-1a2b3c4d 12 10 50.0% 10.0% 30.0% 10.0% 16.7% 0 1.5 11.7",
        "v2-9f8e7d6c 40 0 - - - - - 0 - -",
        "(none) 0 0 - - - - 0.0% 4 - -",
    ]
    assert "7 10 50.0% 10.0% 30.0% 10.0% 16.7% 0 1.5 11.7" in lines
    assert "photos-1a2b3c4d 3 0.0% 66.7% 33.3% 0.0% 0.0% 0.0%" in lines
    assert not any(line.startswith("suggestion was") for line in lines)


def test_columns_are_aligned() -> None:
    head, *rows = list(ledger_lines(make_ledger(), None, with_arms=False))[:4]

    assert {len(row) for row in rows} == {len(head)}


def test_shown_and_withheld_suggestions_are_compared_on_request_or_when_there_are_both() -> None:
    shown = ArmTally(tally=make_tally(accepted=300, compared=300, unchanged=300, words=2400), spectrum={300: 2})
    withheld = ArmTally(tally=make_tally(written=2, compared=2, word_edits=5, words=21), spectrum={2: 3, 1: 4})

    on_request = list(ledger_lines(make_ledger(), None, with_arms=True))
    both = ledger_lines(make_ledger(shown=shown, withheld=withheld), None, with_arms=False)
    lines = [" ".join(line.split()) for line in both]

    assert any(line.startswith("suggestion was") for line in on_request)
    assert lines[lines.index("suggestion was shown withheld") :] == [
        "suggestion was shown withheld",
        "captions 300 2",
        "words, mean 8.0 10.5",
        "distinct words in 2 captions 2.0 7.0",
        "different from ours 0.0% 100.0%",
        "changed words, mean 0.0 2.5",
        "skipped 0.0% 0.0%",
        "lead time in s, median - -",
    ]


def test_a_project_without_a_ledger_says_so() -> None:
    assert list(ledger_lines(make_ledger(versions={}, annotators={}, cells={}), None, with_arms=False)) == [
        "no suggestions and no annotations yet"
    ]


def test_json_holds_all_totals() -> None:
    report = ledger_json(make_ledger(), None)

    (version, *_), (annotator,), (cell,) = report["versions"], report["annotators"], report["annotators_by_version"]
    assert (version["version"], version["tasks"], version["judged"], version["accepted_rate"]) == (
        "photos-1a2b3c4d",
        12,
        10,
        0.5,
    )
    assert version["kinds"] == dict.fromkeys(EDIT_KINDS, 0) | {"count": 1, "attribute": 2}
    assert (annotator["annotator"], annotator["mean_lead_time_s"]) == (7, 9.0)
    assert (cell["annotator"], cell["version"], cell["edited"]) == (7, "photos-1a2b3c4d", 3)
    assert report["versions"][2]["version"] is None
    assert report["arms"]["distinct_words_in_captions"] == 0
    assert report["arms"]["withheld"]["distinct_words"] is None


def test_fitted_scores_are_explained_with_their_error() -> None:
    calibration = Calibration(intercept=0.1, slope=0.9, per_length=-0.2, judged=240, error=0.041, error_before=0.18)

    lines = list(ledger_lines(make_ledger(), calibration, with_arms=False))
    report = ledger_json(make_ledger(), calibration)

    assert lines[-1].startswith("A score is the chance of acceptance, fitted on 240 judged suggestions.")
    assert lines[-1].endswith("error: 4.1%; without the fit: 18.0%.")
    assert (report["calibration"]["judged"], report["calibration"]["error"]) == (240, 0.041)
    assert ledger_json(make_ledger(), None)["calibration"] is None


def read(lines: Iterable[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(lines), newline="")))


@pytest.mark.parametrize("caption", ["=1+1", "+49 30", "-1", "@SUM(A1)", "\t=1+1", "\r=1+1"])
def test_no_caption_becomes_a_formula_in_a_spreadsheet(caption: str) -> None:
    lines = csv_lines([make_correction(caption=caption)])

    [row] = read(lines)
    assert row["caption"] == f"'{caption}"


def test_csv_has_a_line_for_each_record() -> None:
    edited = make_correction(caption='a "black" dog,\rruns', proposed="a dog runs", lead_time_s=4.25)
    written = make_correction(annotation_id=2, proposed=None, model_version=None, annotator=None, caption="一隻狗")

    lines = csv_lines([edited, written])

    first, second = read(lines)
    assert (first["annotation_id"], first["outcome"], first["kinds"]) == ("1", "edited", "attribute")
    assert (first["caption"], first["suggestion"]) == ('a "black" dog,\rruns', "a dog runs")
    assert (first["word_edits"], first["lead_time_s"], first["annotator"]) == ("1", "4.25", "1")
    assert (second["caption"], second["suggestion"], second["annotator"]) == ("一隻狗", "", "")


def test_csv_names_the_memory_s_generation_and_corrections_after_all_other_columns() -> None:
    decoded = make_correction()
    chosen = replace(decoded, generation=41, like=("12/caption", "3/caption"))

    lines = csv_lines([chosen, decoded])

    of_memory, of_decoder = read(lines)
    assert (of_memory["generation"], of_memory["like"]) == ("41", "12/caption 3/caption")
    assert (of_decoder["generation"], of_decoder["like"]) == ("", "")
    assert CSV_COLUMNS[-3:] == ("updated_at", "generation", "like")
