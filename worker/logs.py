"""How every process of ours logs: a line per finished unit of work; of RQ's own steps only what is wrong.

A message is an event and then `key=value`; as JSON (LOG_FORMAT) the keys become fields. Each line of a request, or of a
job that a request led to, carries the request's id.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from worker.request_id import current_request_id

_PLACE = re.compile(r"(?:(?<!\S)(?P<name>\w+)=)?(?P<form>%[#0 +-]*[\d.]*[a-zA-Z%])")


def set_up_logging(log_format: str) -> None:
    """Write lines to standard error from now on, as `text` or as `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if log_format == "json" else TextLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)


class TextLine(logging.Formatter):
    """For people: `2025-01-31T12:00:00+0000 INFO backend.routes correction stored project=6 request=0a1b`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        request_id = current_request_id()
        return super().formatMessage(record) + (f" request={request_id}" if request_id else "")


class JsonLine(logging.Formatter):
    """For programs: one JSON object for each line, with the values of `key=%s` under their keys."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = _event_and_facts(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
            **facts,
        }
        if request_id := current_request_id():
            line["request"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _event_and_facts(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Read a message as it was written, before its values were put in; what has no key is part of the event."""
    written, values = str(record.msg), record.args
    places = list(_PLACE.finditer(written))
    if not isinstance(values, tuple) or len(values) != sum(found["form"] != "%%" for found in places):
        return record.getMessage(), {}  # written in a way that only logging knows
    left, facts = iter(values), {}

    def place(found: re.Match[str]) -> str:
        if found["form"] == "%%":
            return "%"
        value = next(left)
        if found["name"] is None:
            return found["form"] % (value,)
        is_json = value is None or isinstance(value, str | bool | int | float)
        facts[found["name"]] = value if is_json else str(value)
        return ""

    return " ".join(_PLACE.sub(place, written).split()), facts
