"""The id of the request that a piece of work goes back to: in log lines, in corrections, jobs and versions.

Whoever looks for one id finds the webhook, the job that it led to and the version that this one made.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

META = "request_id"
"""Its place in a job's meta."""

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_request_id() -> str | None:
    """Return the id of the request that is answered, or that led to the job that runs; None where there is none."""
    return _current.get()


def begin_request(given: str | None) -> str:
    """Work for a new request from now on; returns its id: the given one if it is short and plain, else a new one."""
    is_plain = given is not None and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) is not None
    request_id = given if given is not None and is_plain else secrets.token_hex(8)
    _current.set(request_id)
    return request_id


def end_request() -> None:
    """Work for no request any more."""
    _current.set(None)


@contextmanager
def request_of(meta: Mapping[str, Any]) -> Iterator[None]:
    """Work for the request that led to the job of this meta, if one did."""
    before = _current.set(meta.get(META))
    try:
        yield
    finally:
        _current.reset(before)
