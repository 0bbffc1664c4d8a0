"""Logging of every process: a line for each finished unit of work, and only the problems of RQ and of clients of S3.

A message is an event followed by `key=value`; as JSON (LOG_FORMAT) the keys become fields. Each line of a request, or
of a job that a request led to, has the request's id. This is done by hand because structlog does not read keys out of
standard messages: it would need as much code here, and another form of every log call.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from worker.request_id import current_request_id

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PLACEHOLDER = re.compile(r"(?:(?<!\S)(?P<name>\w+)=)?(?P<form>%[#0 +-]*[\d.]*[a-zA-Z%])")


def set_up_logging(log_format: str) -> None:
    """Write lines to standard error from now on, as `text` or as `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if log_format == "json" else TextLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for talkative in ("rq", "rq.worker", "botocore", "aiobotocore"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def escaped(text: str) -> str:
    """Return text without line breaks and control characters, so that nothing can forge a line or steer a terminal."""
    return _CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def indented(text: str) -> str:
    """Return a traceback whose further lines cannot look like lines of the log, whatever an error quotes."""
    return "\n    ".join(escaped(line) for line in text.split("\n"))


class TextLine(logging.Formatter):
    """Lines for people: `2025-01-31T12:00:00+0000 INFO backend.routes correction stored project=6 request=0a1b`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        request_id = current_request_id()
        # RQ puts tracebacks into its messages.
        line = indented(record.message) if record.name.startswith("rq.") else escaped(record.message)
        head = f"{record.asctime} {record.levelname} {record.name}"
        return f"{head} {line}" + (f" request={request_id}" if request_id else "")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "    " + indented(super().formatException(ei))


class JsonLine(logging.Formatter):
    """Lines for programs: a JSON object each, with the values of `key=%s` under their keys."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_and_fields(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
            **fields,
        }
        if request_id := current_request_id():
            line["request"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _event_and_fields(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Return a message's event and its fields. Values without a key are part of the event."""
    template, values = str(record.msg), record.args
    if not isinstance(values, tuple) or len(values) != sum(m["form"] != "%%" for m in _PLACEHOLDER.finditer(template)):
        return record.getMessage(), {}  # only logging can format this message
    remaining, fields = iter(values), {}

    def fill(placeholder: re.Match[str]) -> str:
        if placeholder["form"] == "%%":
            return "%"
        value = next(remaining)
        if placeholder["name"] is None:
            return placeholder["form"] % (value,)
        is_json = value is None or isinstance(value, str | bool | int | float)
        fields[placeholder["name"]] = value if is_json else str(value)
        return ""

    return " ".join(_PLACEHOLDER.sub(fill, template).split()), fields
