"""Origin of a job, kept in its meta: the id of the request that led to it, and its trace."""

from collections.abc import Mapping
from typing import Any

from worker.request_id import META, current_request_id
from worker.telemetry import carried_trace

TRACE_META = "trace"


def job_origin() -> dict[str, Any]:
    """Return the origin of a job that is made now, for its meta."""
    origin = {META: current_request_id(), TRACE_META: carried_trace()}
    return {name: value for name, value in origin.items() if value}


def kept_origin(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the origin that `job_origin` wrote into a job's meta."""
    return {name: meta[name] for name in (META, TRACE_META) if name in meta}
