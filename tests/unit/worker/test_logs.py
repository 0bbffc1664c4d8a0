import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from worker.logs import JsonLine, TextLine
from worker.request_id import begin_request, end_request


@pytest.fixture
def request_id() -> Iterator[str]:
    yield begin_request("0a1b2c3d")
    end_request()


def record(message: Any, *values: Any, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("backend.routes", logging.INFO, "file.py", 1, message, values, more.get("exc_info"))


def as_json(entry: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of the line, without those that every line has."""
    line: dict[str, Any] = json.loads(JsonLine().format(entry))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert (line.pop("level"), line.pop("logger")) == ("INFO", "backend.routes")
    return line


def test_keys_of_a_message_become_fields_with_their_own_types() -> None:
    line = as_json(record("job %s queue=%s seconds=%.1f task=%d by=%r", "done", "retrain", 1.25, 7, None))

    assert line == {"event": "job done", "queue": "retrain", "seconds": 1.25, "task": 7, "by": None}


def test_a_value_keeps_its_spaces_signs_and_lines() -> None:
    problem = 'a "dog" = 100 %\n狗 status=ok'

    line = as_json(record("task not captioned reason=%s", problem))

    assert line == {"event": "task not captioned", "reason": problem}
    assert "\n" not in JsonLine().format(record("task not captioned reason=%s", problem))


def test_a_value_that_json_cannot_hold_is_written_as_text() -> None:
    assert as_json(record("store away problem=%s", OSError("full"))) == {"event": "store away", "problem": "full"}


@pytest.mark.parametrize(
    ("message", "values", "event"),
    [
        ("nothing to fill in, 100 % of it", (), "nothing to fill in, 100 % of it"),
        ("as %(name)s", ({"name": "a mapping"},), "as a mapping"),
        ("%*d wide", (4, 7), "   7 wide"),
        (ValueError("no text"), (), "no text"),
    ],
)
def test_a_message_of_another_form_is_written_whole(message: Any, values: tuple[Any, ...], event: str) -> None:
    assert as_json(record(message, *values)) == {"event": event}


def test_a_traceback_stands_in_the_same_line() -> None:
    try:
        float("broken")
    except ValueError:
        line = as_json(record("request crashed path=%s", "/predict", exc_info=sys.exc_info()))

    assert line["path"] == "/predict"
    assert line["exception"].endswith("could not convert string to float: 'broken'")


def test_every_line_of_a_request_carries_its_id(request_id: str) -> None:
    stored = record("correction stored project=%s", 6)

    assert as_json(stored) == {"event": "correction stored", "project": 6, "request": request_id}
    assert TextLine().format(stored).endswith(f" INFO backend.routes correction stored project=6 request={request_id}")


def test_a_line_of_no_request_has_none() -> None:
    assert TextLine().format(record("worker ended")).endswith(" worker ended")


def test_no_text_can_forge_a_line_or_steer_a_terminal() -> None:
    forged = "v1\n2025-01-31T12:00:00+0000 INFO worker all is well\r\x1b[2J\u2028\u202e"

    line = TextLine().format(record("served version=%s", forged))

    assert line.endswith(r"version=v1\n2025-01-31T12:00:00+0000 INFO worker all is well\r\x1b[2J\u2028\u202e")
    assert len(line.splitlines()) == 1


def test_an_error_that_quotes_a_line_break_cannot_forge_a_line() -> None:
    try:
        int("bad\n2025-01-31T12:00:00+0000 INFO worker all is well")
    except ValueError:
        failed = record("failed", exc_info=sys.exc_info())

    lines = TextLine().format(failed).splitlines()

    assert all(line.startswith("    ") for line in lines[1:])
