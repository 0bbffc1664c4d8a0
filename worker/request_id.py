"""The id of the request that led to a piece of work, in log lines, corrections, jobs and versions.

A search for the id finds the webhook, the job that it led to, and the version that the job made.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

META = "request_id"
"""Its key in a job's meta."""

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_request_id() -> str | None:
    """Return the id of the request that is answered, or that led to the running job; None without a request."""
    return _current.get()


def begin_request(given: str | None) -> str:
    """Work for a new request from now on; return its id: the given id if it is short and plain, else a new id."""
    is_plain = given is not None and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) is not None
    request_id = given if given is not None and is_plain else secrets.token_hex(8)
    _current.set(request_id)
    return request_id


def end_request() -> None:
    """Stop working for a request."""
    _current.set(None)


@contextmanager
def request_of(meta: Mapping[str, Any]) -> Iterator[None]:
    """Work for the request that led to the job of this meta, if there was one."""
    before = _current.set(meta.get(META))
    try:
        yield
    finally:
        _current.reset(before)
