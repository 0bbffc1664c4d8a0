"""Metrics that all processes share, read from Redis, the store and Label Studio at each Prometheus scrape.

A scrape costs the same, however many corrections, versions and jobs there are. Totals are counted when they change
(`worker/queue/job_metrics.py`, `worker/feedback`), and a scrape reads only the serving version of each project.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis import RedisError

from backend.admin.overview import QueueStatus, queue_statuses, worker_statuses
from backend.captioning.services import CaptioningServices
from backend.label_studio.health import LabelStudioHealth
from model.errors import CaptionerError, ModelVersionError
from worker.feedback.left_projects import left_projects
from worker.feedback.totals import Acceptance, read_acceptance
from worker.feedback.waiting import Waiting, read_waitings
from worker.queue.job_metrics import JOB_BUCKETS_S, Counts, JobCounts, JobTimes

logger = logging.getLogger(__name__)

JOB_STATES = ("waiting", "deferred", "scheduled", "running", "failed")


@dataclass(kw_only=True)
class _Readings:
    """Values of one scrape. A value that cannot be read stays empty."""

    queues: tuple[QueueStatus, ...] = ()
    workers_alive: int | None = None
    counts: Counts = field(default_factory=Counts)
    waiting: Mapping[int, Waiting] = field(default_factory=dict)
    """By project, as all mappings below."""
    serving: dict[int, str] = field(default_factory=dict)
    acceptance: Mapping[int, Acceptance] = field(default_factory=dict)
    """Acceptance of the serving version's suggestions."""
    up: Mapping[str, bool] = field(default_factory=dict)
    """By name of the dependency."""


class SharedMetrics(Collector):
    """Collector that reads the values at each scrape."""

    def __init__(self, services: CaptioningServices, label_studio: LabelStudioHealth) -> None:
        self._services = services
        self._label_studio = label_studio
        self._about = {
            "version": version("label-studio-captioner"),
            "bundle": services.captioners.registry.base_version,
        }

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        yield from _queue_metrics(readings)
        yield from _count_metrics(readings.counts)
        yield from _project_metrics(readings)
        yield _gauge("neighbour_up", "1 if the dependency answers.", ["neighbour"], readings.up.items())
        loaded = self._services.captioners.is_loaded
        yield GaugeMetricFamily("captioner_bundle_loaded", "1 if the bundle is loaded.", value=loaded)
        yield InfoMetricFamily("captioner", "Program and bundle that every project starts with.", value=self._about)

    def _read(self) -> _Readings:
        readings = _Readings()
        redis_up = _succeeds(lambda: self._read_redis(readings))
        store_up = _succeeds(lambda: self._read_store(readings))
        if redis_up and store_up:
            redis_up = _succeeds(lambda: self._read_ledger(readings))
        readings.up = {"redis": redis_up, "store": store_up, "label_studio": self._label_studio.is_up()}
        return readings

    def _read_redis(self, readings: _Readings) -> None:
        redis = self._services.redis
        readings.queues = tuple(queue_statuses(redis))
        readings.workers_alive = sum(worker.is_alive for worker in worker_statuses(redis))
        readings.counts = JobCounts(redis).read().without(left_projects(redis))
        readings.waiting = read_waitings(redis, self._services.feedback.projects())

    def _read_store(self, readings: _Readings) -> None:
        self._services.store.exists("ready")  # checks the store even if there are no projects
        for project_id in readings.waiting:
            try:
                readings.serving[project_id] = self._services.captioners.version_of(project_id)
            except ModelVersionError as problem:  # the project's record is damaged; the store itself answers
                logger.warning("metrics incomplete project=%s problem=%s", project_id, problem)

    def _read_ledger(self, readings: _Readings) -> None:
        readings.acceptance = {
            project_id: read_acceptance(self._services.redis, project_id, [serving])[serving]
            for project_id, serving in readings.serving.items()
        }


def _queue_metrics(readings: _Readings) -> Iterator[Metric]:
    states = [((jobs.name, state), getattr(jobs, state)) for jobs in readings.queues for state in JOB_STATES]
    yield _gauge("queue_jobs", "Jobs by queue and state.", ["queue", "state"], states)
    ages = [(jobs.name, jobs.oldest_waiting_s or 0.0) for jobs in readings.queues]
    yield _gauge("queue_oldest_seconds", "Time that the next job of a queue has waited.", ["queue"], ages)
    alive = [] if readings.workers_alive is None else [((), readings.workers_alive)]
    yield _gauge("workers_alive", "RQ workers with a fresh heartbeat.", [], alive)


def _count_metrics(counts: Counts) -> Iterator[Metric]:
    yield _job_seconds(counts.jobs)
    yield _counter("gate_decisions", "Trainings, by decision.", ["project", "decision"], counts.decisions)
    meaning = "Captions that annotators submitted, skipped or deleted."
    yield _counter("corrections", meaning, ["project", "outcome"], counts.corrections)
    yield _counter("edits", "Edited captions by kind of change.", ["project", "kind"], counts.edits)


def _project_metrics(readings: _Readings) -> Iterator[Metric]:
    waiting = [(str(project), corrections.count) for project, corrections in readings.waiting.items()]
    yield _gauge("corrections_waiting", "Corrections that no training has used.", ["project"], waiting)
    oldest = [(str(project), corrections.oldest_s or 0.0) for project, corrections in readings.waiting.items()]
    yield _gauge(
        "corrections_oldest_seconds", "Time that the oldest waiting correction has waited.", ["project"], oldest
    )
    labels = ["project", "version"]
    versions = [((str(project), name), 1) for project, name in readings.serving.items()]
    yield _gauge("serving_version", "1 for the serving version of a project.", labels, versions)
    acceptance = [((str(project), readings.serving[project]), tally) for project, tally in readings.acceptance.items()]
    judged = [(values, tally.judged) for values, tally in acceptance]
    yield _gauge("suggestions_judged", "Suggestions of the serving version that became a caption.", labels, judged)
    rates = [(values, tally.accepted / tally.judged) for values, tally in acceptance if tally.judged]
    yield _gauge("accept_rate", "Share of the judged suggestions accepted unchanged.", labels, rates)
    edits = [(values, tally.word_edits / tally.compared) for values, tally in acceptance if tally.compared]
    yield _gauge("word_edits_mean", "Words changed in a judged suggestion, on average.", labels, edits)


def _job_seconds(jobs: Mapping[tuple[str, str], JobTimes]) -> Metric:
    family = HistogramMetricFamily(
        "captioner_job_seconds", "Time of jobs by function and outcome.", labels=["kind", "outcome"]
    )
    ends = [*map(str, JOB_BUCKETS_S), "+Inf"]
    for labels, times in sorted(jobs.items()):
        family.add_metric(labels, list(zip(ends, accumulate(times.buckets), strict=True)), times.seconds)
    return family


def _gauge(
    name: str, meaning: str, labels: list[str], samples: Iterable[tuple[str | tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(f"captioner_{name}", meaning, labels=labels)
    for values, number in samples:
        family.add_metric((values,) if isinstance(values, str) else values, number)
    return family


def _counter(name: str, meaning: str, labels: list[str], counts: Mapping[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(f"captioner_{name}", meaning, labels=labels)
    for values, number in sorted(counts.items()):
        family.add_metric(values, number)
    return family


def _succeeds(read: Callable[[], None]) -> bool:
    try:
        read()
    except (RedisError, CaptionerError) as problem:
        logger.warning("metrics incomplete problem=%s", problem)
        return False
    return True
