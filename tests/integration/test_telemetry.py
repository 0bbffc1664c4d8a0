"""Spans of OpenTelemetry: their content, traces that continue in the process of a job, and work without them."""

import logging
import sys
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.backend_client import BackendClient
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.span_collector import SpanCollector
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Workplace
from worker import telemetry
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue
from worker.queue.retraining import enqueue_retraining
from worker.telemetry import carried_trace, span, start_telemetry


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that this process exports."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.fixture
def collector() -> Iterator[SpanCollector]:
    with SpanCollector() as collector:
        yield collector


def test_a_prediction_is_one_trace_of_its_stages(
    backend: BackendClient, image_server: ImageServer, exported: InMemorySpanExporter
) -> None:
    backend.predict([make_task(data={"captioning": image_server.show("/a.png")})])

    spans = {finished.name: finished for finished in exported.get_finished_spans()}

    stages = ("fetch", "read_memory", "decode", "recall")
    assert set(spans) == {"predict", "encode", *stages}
    assert {trace_of(finished) for finished in spans.values()} == {trace_of(spans["predict"])}
    assert [spans[stage].parent for stage in stages] == [spans["predict"].context] * 4
    assert spans["encode"].parent == spans["fetch"].context


def test_a_job_continues_the_trace_of_its_webhook_and_the_span_has_the_request_id(
    backend: BackendClient, exported: InMemorySpanExporter
) -> None:
    body = {"action": "START_TRAINING", "project": {"id": 6}}

    job_id = backend.post("/webhook", body, {"X-Request-ID": "find-me"}).get_json()["job"]

    [webhook] = exported.get_finished_spans()
    carried = Job.fetch(job_id, connection=backend.services.redis, serializer=JSONSerializer).meta["trace"]
    assert (webhook.name, (webhook.attributes or {})["request_id"]) == ("webhook", "find-me")
    assert carried["traceparent"].split("-")[1] == f"{trace_of(webhook):032x}"


def test_the_process_of_a_job_continues_the_trace_and_exports_its_spans_before_it_ends(
    workplace: Workplace,
    start_worker: Callable[..., WorkerProcess],
    collector: SpanCollector,
    exported: InMemorySpanExporter,
) -> None:
    start_worker(
        workplace.environment(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_COMPRESSION="none")
    )
    workplace.correct(range(1, 9))
    with span("webhook"):
        enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")
        failing = queue(workplace.redis, LABEL_STUDIO_QUEUE).enqueue_call(
            "math.sqrt", args=[-1], meta={"trace": carried_trace()}
        )

    arrived = {}
    for service, finished in collector.spans(DEADLINE_S):
        arrived[finished.name] = (service, finished)
        if {"job retrain", "job collect_corrections", "job sqrt"} <= set(arrived):
            break

    [webhook] = exported.get_finished_spans()
    assert {service for service, _ in arrived.values()} == {"captioner-worker"}
    assert {int.from_bytes(finished.trace_id) for _, finished in arrived.values()} == {trace_of(webhook)}
    statuses = {name: finished.status for name, (_, finished) in arrived.items()}
    failed = {name for name, status in statuses.items() if status.code == status.STATUS_CODE_ERROR}
    assert failed == {"job sqrt"}
    assert workplace.result(failing.id).type.name == "FAILED"


def test_without_the_packages_of_opentelemetry_no_span_is_exported_and_everything_works(
    backend: BackendClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")

    with caplog.at_level(logging.WARNING):
        start_telemetry("captioner-backend")
    job_id = backend.post("/webhook", {"action": "START_TRAINING", "project": {"id": 6}}).get_json()["job"]

    assert "no spans are exported although OTEL_EXPORTER_OTLP_ENDPOINT is set" in caplog.text
    meta = Job.fetch(job_id, connection=backend.services.redis, serializer=JSONSerializer).meta
    assert list(meta) == ["request_id"]


def test_without_an_endpoint_no_span_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    start_telemetry("captioner-backend")

    with span("webhook"):
        assert carried_trace() == {}


def trace_of(finished: ReadableSpan) -> int:
    assert finished.context is not None
    return int(finished.context.trace_id)
