"""OpenTelemetry spans of webhooks, predictions and jobs; the spans of a request are one trace, over all processes.

They are exported if OTEL_EXPORTER_OTLP_ENDPOINT is set and the packages of the extra `telemetry` are installed;
OpenTelemetry's own variables configure the export. Otherwise nothing here does anything.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]

from worker.request_id import current_request_id

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
PATIENCE_S = 2.0
"""The end of a job waits this long for a collector that is away, unless the operator sets another time."""


def start_telemetry(service: str) -> None:
    """Export the spans of this process from now on, if the endpoint is set.

    Args:
        service: its name in the traces, unless OTEL_SERVICE_NAME names another.
    """
    if not os.environ.get(ENDPOINT):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as problem:
        logger.warning("no spans are exported although %s is set problem=%s", ENDPOINT, problem)
        return
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    provider = TracerProvider(resource=resource)
    timeout = None if TIMEOUT in os.environ else PATIENCE_S
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, parent: Mapping[str, str] | None = None, **attributes: str | int) -> Iterator[None]:
    """Record the block as a span.

    Args:
        name: of the span.
        parent: result of `carried_trace` in the process that asked for this work; None continues the open span.
        attributes: of the span.
    """
    if trace is None:
        yield
        return
    if request_id := current_request_id():
        attributes["request_id"] = request_id
    context = None if parent is None else propagate.extract(parent)
    with trace.get_tracer("captioner").start_as_current_span(name, context=context, attributes=attributes):
        yield


def fail_span(reason: str) -> None:
    """Mark the open span as failed."""
    if trace is not None:
        trace.get_current_span().set_status(trace.StatusCode.ERROR, reason)


def carried_trace() -> dict[str, str]:
    """Return the data with which another process continues the open span, as JSON; empty if none is open."""
    carried: dict[str, str] = {}
    if trace is not None:
        propagate.inject(carried)
    return carried


def flush_telemetry() -> None:
    """Export the remaining spans, because the process of a job ends abruptly."""
    flush = getattr(trace and trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush()
