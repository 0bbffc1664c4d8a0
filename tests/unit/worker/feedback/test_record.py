"""Records of feedback as they are checked and stored."""

import json

import pytest

from model.errors import CorrectionError
from tests.factories import make_correction
from worker.feedback.record import Correction


def test_a_correction_survives_json() -> None:
    correction = make_correction(caption='一隻黑狗 "runs"\n', proposed=None, lead_time_s=None, annotator=None)

    assert Correction.from_json(correction.to_json()) == correction


def test_an_edit_is_a_difference_of_texts() -> None:
    assert make_correction(proposed="a dog", caption="a dog ").is_edit
    assert make_correction(proposed=None, caption="a dog").is_edit
    assert not make_correction(proposed="a dog", caption="a dog").is_edit


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("2025-01-31T12:00:00Z", "2025-01-31T12:00:00.000000+00:00"),
        ("2025-01-31T12:00:00.1Z", "2025-01-31T12:00:00.100000+00:00"),
        ("2025-01-31T14:00:00.123456+02:00", "2025-01-31T12:00:00.123456+00:00"),
    ],
)
def test_times_are_brought_into_one_form_so_that_they_order_as_texts(written: str, stored: str) -> None:
    assert make_correction(updated_at=written).updated_at == stored


@pytest.mark.parametrize(
    "written",
    [
        *("yesterday", "2025-01-31T12:00:00", "", None, 7),
        *("0001-01-01T00:00:00+02:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-02:00"),
    ],
)
def test_a_time_that_cannot_be_is_refused(written: object) -> None:
    with pytest.raises(
        CorrectionError, match="annotation 7: updated_at must be a time with its zone in the years 1970 to 9998"
    ):
        make_correction(annotation_id=7, updated_at=written)


@pytest.mark.parametrize("caption", ["", "  \n"])
def test_an_empty_caption_is_no_correction(caption: str) -> None:
    with pytest.raises(CorrectionError, match="annotation 1: the caption of 'caption' is empty"):
        make_correction(caption=caption)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(CorrectionError, match="half a character"):
        make_correction(caption="a \ud83d dog")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", json.dumps({"caption": "a dog"})])
def test_what_is_no_stored_correction_is_refused(text: str) -> None:
    with pytest.raises(CorrectionError, match="stored feedback cannot be read"):
        Correction.from_json(text)
