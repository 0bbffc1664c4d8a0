import random
from dataclasses import replace
from pathlib import Path

import pytest

from model.metrics.calibration import expected_calibration_error
from model.store import Store
from tests.factories import make_correction
from worker.feedback.record import Feedback
from worker.feedback.score_calibration import (
    FEWEST,
    UNJUDGED,
    Calibration,
    fit_calibration,
    read_calibration,
    write_calibration,
)

LONG, SHORT = "a dog and a cat run over the wet grass", "a dog"


def make_records(count: int, seed: int = 0) -> list[Feedback]:
    """A decoder that is far too sure: what it gives 0.9 is accepted in half of the cases, long captions seldom."""
    draw = random.Random(seed)
    records: list[Feedback] = []
    for number in range(1, count + 1):
        score, proposed = draw.uniform(0.5, 0.99), draw.choice([LONG, SHORT])
        is_accepted = draw.random() < (score - 0.4) * (0.4 if proposed == LONG else 1.2)
        correction = make_correction(
            annotation_id=number, proposed=proposed, caption=proposed if is_accepted else f"{proposed} indeed"
        )
        records.append(replace(correction, score=score))
    return records


def fit(records: list[Feedback]) -> Calibration:
    calibration = fit_calibration(records)
    assert calibration is not None
    return calibration


def test_scores_become_probabilities_of_being_accepted() -> None:
    calibration = fit(make_records(1000))

    assert calibration.error_before > 0.3
    assert calibration.error < 0.05
    assert calibration.judged == 1000
    assert calibration.score(0.9, SHORT) == pytest.approx(0.6, abs=0.08)
    assert calibration.score(0.9, LONG) == pytest.approx(0.2, abs=0.08)
    assert calibration.score(0.6, SHORT) < calibration.score(0.9, SHORT)
    assert 0 < calibration.score(0.0, "") < calibration.score(1.0, SHORT) < 1


def test_a_few_judgements_move_scores_a_little_and_fewer_move_nothing() -> None:
    records = make_records(1000)

    assert fit_calibration(records[: FEWEST - 1]) is None
    few, many = fit(records[:FEWEST]), fit(records)

    assert abs(few.per_length) < abs(many.per_length)


def test_what_nobody_judged_counts_for_nothing() -> None:
    records = make_records(FEWEST - 1)
    record = records[0]
    others = [replace(record, outcome="skipped"), replace(record, arm="withheld"), replace(record, score=None)]

    assert fit_calibration([*records, *others * 10]) is None


def test_before_anybody_judged_scores_promise_less_than_the_decoder_does() -> None:
    assert UNJUDGED.score(0.83, SHORT) < 0.45
    assert UNJUDGED.score(0.5, SHORT) < UNJUDGED.score(0.83, SHORT) < UNJUDGED.score(0.99, SHORT)


def test_captions_that_the_memory_chose_have_a_fit_of_their_own() -> None:
    decoded = [replace(record, outcome="edited") for record in make_records(100)]
    recalled = [replace(record, outcome="accepted", generation=41) for record in make_records(100, seed=1)]

    of_decoder, of_memory = (fit_calibration([*decoded, *recalled], of_memory=kind) for kind in (False, True))

    assert of_decoder is not None
    assert of_memory is not None
    assert (of_decoder.judged, of_memory.judged) == (100, 100)
    assert of_decoder.score(0.8, SHORT) < 0.1
    assert of_memory.score(0.8, SHORT) > 0.9


def test_annotators_who_accept_all_or_nothing_give_scores_near_one_or_zero() -> None:
    records = make_records(200)

    assert fit([replace(record, outcome="accepted") for record in records]).score(0.8, SHORT) > 0.95
    assert fit([replace(record, outcome="edited") for record in records]).score(0.8, SHORT) < 0.05


def test_the_calibration_error_is_the_distance_of_promise_and_outcome() -> None:
    assert expected_calibration_error([0.7] * 10 + [0.2] * 10, [1] * 7 + [0] * 3 + [1] * 2 + [0] * 8) > 0.2
    assert expected_calibration_error([0.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50) == 0
    assert expected_calibration_error([1.0] * 50 + [0.0] * 50, [0] * 50 + [1] * 50) == 1


def test_a_calibration_is_kept_by_project(tmp_path: Path) -> None:
    store, calibration = Store(tmp_path), fit(make_records(100))

    write_calibration(store, 1, calibration)

    assert read_calibration(store, 1) == calibration
    assert read_calibration(store, 2) is None
    assert read_calibration(store, 1, of_memory=True) is None
