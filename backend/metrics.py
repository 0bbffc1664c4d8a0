"""What the backend counts and times, for Prometheus; one registry per app, so that tests do not share one."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram

_STAGES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
_WEBHOOK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The counters and histograms of one backend process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.corrections = self._counter("corrections", "Captions that annotators submitted or took back.", "kind")
        self.predictions = self._counter("predictions", "Tasks answered by /predict.", "outcome")
        self.task_failures = self._counter("task_failures", "Tasks that got no caption.", "kind")
        self.features = self._counter("features", "Images looked up in the feature store.", "outcome")
        self._predict_stage = self._histogram(
            "predict_stage_seconds", "Time of one /predict call in each stage.", _STAGES_S, "stage"
        )
        self._webhook = self._histogram("webhook_seconds", "Time from a webhook's arrival to its answer.", _WEBHOOK_S)

    @contextmanager
    def timed_stage(self, stage: str) -> Iterator[None]:
        """Time a stage of /predict: fetch, encode, decode."""
        began = perf_counter()
        yield
        self._predict_stage.labels(stage).observe(perf_counter() - began)

    def observe_webhook(self, seconds: float) -> None:
        self._webhook.observe(seconds)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace="captioner", registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, namespace="captioner", buckets=buckets, registry=self.registry)
