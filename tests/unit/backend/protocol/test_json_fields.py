"""Project ids in every form Label Studio writes them."""

from typing import Any

import pytest

from backend.protocol.json_fields import need, need_ids, parse_project_id
from model.errors import RequestError


@pytest.mark.parametrize("value", [6, "6", "6.1795230827", {"id": 6, "title": "x"}])
def test_a_project_id_is_read_in_every_form(value: Any) -> None:
    assert parse_project_id(value) == 6


@pytest.mark.parametrize("value", [None, True, "", "x", "٦", "-1", ".5", 1.5, [], {"id": "6"}, {}])
def test_anything_else_is_no_project(value: Any) -> None:
    with pytest.raises(RequestError, match="project"):
        parse_project_id(value)


def test_true_is_no_number() -> None:
    with pytest.raises(RequestError, match="id must be a whole number, got true or false"):
        need({"id": True}, "id", int)


def test_ids_of_a_list_are_read_and_a_bad_one_is_named_by_its_place() -> None:
    assert need_ids({"tasks": [{"id": 1}, {"id": 2}]}, "tasks") == (1, 2)
    with pytest.raises(RequestError, match=r"^tasks\[1\].id is missing"):
        need_ids({"tasks": [{"id": 1}, {}]}, "tasks")
