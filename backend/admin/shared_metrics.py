"""What all processes share, as Prometheus reads it: asked of Redis, the store and Label Studio at each scrape.

A scrape costs the same however many corrections, versions and jobs there are: totals are kept as they come
(`worker/queue/job_metrics.py`, `worker/feedback/ledger_scripts.py`), and of a project only the version that serves is
looked at.
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
from worker.feedback.totals import Acceptance, read_acceptance
from worker.queue.job_metrics import JOB_BUCKETS_S, Counts, JobCounts, JobTimes

logger = logging.getLogger(__name__)

JOB_STATES = ("waiting", "deferred", "scheduled", "running", "failed")


@dataclass(frozen=True, kw_only=True)
class _Inbox:
    """The corrections of one project that no training has seen."""

    waiting: int
    oldest_s: float | None


@dataclass(kw_only=True)
class _Shared:
    """What was found; what could not be asked stays empty."""

    queues: tuple[QueueStatus, ...] = ()
    workers_alive: int | None = None
    counts: Counts = field(default_factory=Counts)
    inboxes: Mapping[int, _Inbox] = field(default_factory=dict)
    serving: dict[int, str] = field(default_factory=dict)
    acceptance: Mapping[int, Acceptance] = field(default_factory=dict)
    """Of the serving version's suggestions, by project."""
    up: Mapping[str, bool] = field(default_factory=dict)


class SharedMetrics(Collector):
    """Collects them when somebody scrapes."""

    def __init__(self, services: CaptioningServices, label_studio: LabelStudioHealth) -> None:
        self._services = services
        self._label_studio = label_studio
        self._about = {
            "version": version("label-studio-captioner"),
            "bundle": services.captioners.registry.base_version,
        }

    def collect(self) -> Iterator[Metric]:
        found = self._ask()
        yield from _queue_metrics(found)
        yield from _count_metrics(found.counts)
        yield from _project_metrics(found)
        yield _gauge("neighbour_up", "1 while it answers.", ["neighbour"], found.up.items())
        loaded = self._services.captioners.is_loaded
        yield GaugeMetricFamily("captioner_bundle_loaded", "1 once predictions need not wait.", value=loaded)
        yield InfoMetricFamily("captioner", "Program and bundle that every project starts with.", value=self._about)

    def _ask(self) -> _Shared:
        found = _Shared()
        redis_up = _answers(lambda: self._ask_redis(found))
        store_up = _answers(lambda: self._ask_store(found))
        if redis_up and store_up:
            redis_up = _answers(lambda: self._ask_ledger(found))
        found.up = {"redis": redis_up, "store": store_up, "label_studio": self._label_studio.is_up()}
        return found

    def _ask_redis(self, found: _Shared) -> None:
        redis, inbox = self._services.redis, self._services.inbox
        found.queues = tuple(queue_statuses(redis))
        found.workers_alive = sum(worker.is_alive for worker in worker_statuses(redis))
        found.counts = JobCounts(redis).read()
        found.inboxes = {
            project_id: _Inbox(waiting=inbox.waiting(project_id), oldest_s=inbox.oldest_waiting_s(project_id))
            for project_id in inbox.projects()
        }

    def _ask_store(self, found: _Shared) -> None:
        self._services.store.exists("ready")  # a process without projects wants to know as well
        for project_id in found.inboxes:
            try:
                found.serving[project_id] = self._services.captioners.version_of(project_id)
            except ModelVersionError as problem:  # its own pointer is damaged; the store answers
                logger.warning("metrics incomplete project=%s problem=%s", project_id, problem)

    def _ask_ledger(self, found: _Shared) -> None:
        found.acceptance = {
            project_id: read_acceptance(self._services.redis, project_id, [serving])[serving]
            for project_id, serving in found.serving.items()
        }


def _queue_metrics(found: _Shared) -> Iterator[Metric]:
    states = [((jobs.name, state), getattr(jobs, state)) for jobs in found.queues for state in JOB_STATES]
    yield _gauge("queue_jobs", "Jobs by queue and state.", ["queue", "state"], states)
    ages = [(jobs.name, jobs.oldest_waiting_s or 0.0) for jobs in found.queues]
    yield _gauge("queue_oldest_seconds", "How long the next job of a queue has waited.", ["queue"], ages)
    alive = [] if found.workers_alive is None else [((), found.workers_alive)]
    yield _gauge("workers_alive", "RQ workers with a fresh heartbeat.", [], alive)


def _count_metrics(counts: Counts) -> Iterator[Metric]:
    yield _job_seconds(counts.jobs)
    yield _counter("gate_decisions", "Retrainings, by decision.", ["project", "decision"], counts.decisions)
    yield _counter(
        "corrections",
        "Captions that annotators submitted, skipped or took back.",
        ["project", "outcome"],
        counts.corrections,
    )
    yield _counter("edits", "Edited captions by kind of change.", ["project", "kind"], counts.edits)


def _project_metrics(found: _Shared) -> Iterator[Metric]:
    inboxes, serving = found.inboxes.items(), found.serving.items()
    waiting = [(str(project), inbox.waiting) for project, inbox in inboxes]
    yield _gauge("corrections_waiting", "Corrections no training has seen.", ["project"], waiting)
    oldest = [(str(project), inbox.oldest_s or 0.0) for project, inbox in inboxes]
    yield _gauge("corrections_oldest_seconds", "How long the oldest of them has waited.", ["project"], oldest)
    labels = ["project", "version"]
    versions = [((str(project), name), 1) for project, name in serving]
    yield _gauge("serving_version", "1 for the version that serves a project.", labels, versions)
    seen = [((str(project), found.serving[project]), accepted) for project, accepted in found.acceptance.items()]
    judged = [(place, one.judged) for place, one in seen]
    yield _gauge("suggestions_judged", "Suggestions of the serving version that became a caption.", labels, judged)
    rates = [(place, one.accepted / one.judged) for place, one in seen if one.judged]
    yield _gauge("accept_rate", "Share of them that were accepted as they were, 0 to 1.", labels, rates)
    edits = [(place, one.word_edits / one.compared) for place, one in seen if one.compared]
    yield _gauge("word_edits_mean", "Words that annotators change in each, on average.", labels, edits)


def _job_seconds(jobs: Mapping[tuple[str, str], JobTimes]) -> Metric:
    family = HistogramMetricFamily(
        "captioner_job_seconds", "Time of jobs by function and how they ended.", labels=["kind", "outcome"]
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


def _answers(question: Callable[[], None]) -> bool:
    try:
        question()
    except (RedisError, CaptionerError) as problem:
        logger.warning("metrics incomplete problem=%s", problem)
        return False
    return True
