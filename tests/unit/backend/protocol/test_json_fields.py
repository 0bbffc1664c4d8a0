"""Foreign JSON is read into our types, or refused with a sentence that names the place."""

from typing import Any

import pytest
from pydantic import Field

from backend.protocol.json_fields import LARGEST_NUMBER, JsonObject, Text, WholeNumber, parse_json, parse_project_id
from model.errors import RequestError


class Annotation(JsonObject):
    id: WholeNumber
    is_skipped: bool = False
    rows: list[Text] = Field(default_factory=list)


class Body(JsonObject):
    annotations: list[Annotation]


@pytest.mark.parametrize("value", [6, "6", "6.1795230827", {"id": 6, "title": "x"}])
def test_a_project_id_is_read_in_every_form(value: Any) -> None:
    assert parse_project_id(value) == 6


@pytest.mark.parametrize("value", [None, True, "", "x", "٦", "-1", ".5", 1.5, [], {"id": "6"}, {}])
def test_anything_else_is_no_project(value: Any) -> None:
    with pytest.raises(RequestError, match="project"):
        parse_project_id(value)


def test_named_keys_are_read_and_others_are_passed_over() -> None:
    body = parse_json(Body, {"annotations": [{"id": 1, "rows": ["a dog"], "other": object()}, {"id": 2}], "more": None})

    assert [annotation.id for annotation in body.annotations] == [1, 2]
    assert body.annotations[0].rows == ["a dog"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "the body must be an object, got a list"),
        ({}, "annotations is missing"),
        ({"annotations": {}}, "annotations must be a list, got an object"),
        ({"annotations": [{"id": 1}, 5]}, "annotations[1] must be an object, got 5"),
        ({"annotations": [{"id": 1}, {}]}, "annotations[1].id is missing"),
        ({"annotations": [{"id": "x"}]}, "annotations[0].id must be a whole number, got 'x'"),
        ({"annotations": [{"id": "1"}]}, "annotations[0].id must be a whole number, got '1'"),
        ({"annotations": [{"id": True}]}, "annotations[0].id must be a whole number, got true or false"),
        ({"annotations": [{"id": 1.0}]}, "annotations[0].id must be a whole number, got 1.0"),
        ({"annotations": [{"id": None}]}, "annotations[0].id must be a whole number, got null"),
        (
            {"annotations": [{"id": 10**400}]},
            f"annotations[0].id must be at most {LARGEST_NUMBER}, got a number of 401 digits",
        ),
        ({"annotations": [{"id": 1, "is_skipped": 1}]}, "annotations[0].is_skipped must be true or false, got 1"),
        ({"annotations": [{"id": 1, "rows": [None]}]}, "annotations[0].rows[0] must be a string, got null"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(body: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_json(Body, body)

    assert str(refusal.value) == sentence


def test_a_place_begins_where_the_caller_says() -> None:
    with pytest.raises(RequestError, match=r"^annotation\[3\]\.id is missing"):
        parse_json(Annotation, {}, "annotation[3]")


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert parse_json(Text, "a \ud83d dog") == "a ? dog"
