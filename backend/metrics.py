"""Metrics of the backend for Prometheus; each app has a registry of its own, so that tests do not share one.

Several processes may listen on one port (`gunicorn -w 2 backend.wsgi:app`). If PROMETHEUS_MULTIPROC_DIR names a
directory, each process writes its numbers into a file there, and a scrape adds up all files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from worker.telemetry import span

_STAGES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
_WEBHOOK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The counters and histograms of one backend process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """The numbers that a scrape reads."""
        self._own = _shared_by_files(self.registry) or self.registry
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.predictions = self._counter("predictions", "Tasks answered by /predict.", "outcome")
        self.image_failures = self._counter("image_failures", "Tasks whose image could not be had.", "reason")
        self.features = self._counter("features", "Images looked up in the feature store.", "outcome")
        self._predict = self._histogram("predict_seconds", "Time from a /predict's arrival to its answer.", _STAGES_S)
        self._predict_stage = self._histogram(
            "predict_stage_seconds", "Time of one /predict call in each stage.", _STAGES_S, "stage"
        )
        self._webhook = self._histogram("webhook_seconds", "Time from a webhook's arrival to its answer.", _WEBHOOK_S)

    @contextmanager
    def timed_stage(self, stage: str) -> Iterator[None]:
        """Time a stage of /predict: fetch and in it encode each image, read memory, decode, recall."""
        began = perf_counter()
        with span(stage):
            yield
        self._predict_stage.labels(stage).observe(perf_counter() - began)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request, and time it if it is a prediction or a webhook."""
        self.requests.labels(route, status).inc()
        if route == "/webhook":
            self._webhook.observe(seconds)
        elif route == "/predict":
            self._predict.observe(seconds)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace="captioner", registry=self._own)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, namespace="captioner", buckets=buckets, registry=self._own)


def _shared_by_files(scraped: CollectorRegistry) -> CollectorRegistry | None:
    """Let a scrape read the files of all processes; return another registry for the numbers of this process."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    MultiProcessCollector(scraped, path=folder)  # type: ignore[no-untyped-call]
    return CollectorRegistry()
