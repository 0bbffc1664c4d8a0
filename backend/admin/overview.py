"""What an admin wants to know at a glance, from Redis and the store; whichever is away is said and left out."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

from redis import Redis, RedisError
from rq import Worker
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from backend.captioning import CaptioningParts
from model.errors import CaptionerError
from worker.job_cause import cause
from worker.liveness import heartbeat_ages_s, is_alive
from worker.queues import QUEUES, queue

logger = logging.getLogger(__name__)

Facts = TypeVar("Facts")

JOBS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ProjectFacts:
    """One project's model and inbox."""

    project_id: int
    serving: str
    waiting: int
    """Corrections no training has seen."""
    oldest_waiting_s: float | None
    last_decision: str | None
    """Why the last retraining was published or refused."""


@dataclass(frozen=True, kw_only=True)
class QueueFacts:
    """One queue, in jobs."""

    name: str
    waiting: int
    deferred: int
    """Wait for another job."""
    scheduled: int
    """Wait for their time: retries and checks to come."""
    running: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """One RQ worker."""

    name: str
    state: str
    queues: tuple[str, ...]
    job_id: str | None
    heartbeat_age_s: float | None

    @property
    def is_alive(self) -> bool:
        return is_alive(self.heartbeat_age_s)


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """One job, of late."""

    job_id: str
    work: str
    status: str
    phase: str | None
    at: str | None
    """When it ended, else when it began, else when it was enqueued; ISO 8601, UTC."""
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All of it."""

    base_version: str
    bundle_loaded: bool
    problems: tuple[str, ...]
    """What could not be asked, in words."""
    projects: tuple[ProjectFacts, ...]
    queues: tuple[QueueFacts, ...]
    workers: tuple[WorkerFacts, ...]
    jobs: tuple[JobFacts, ...]


def look_around(parts: CaptioningParts) -> Overview:
    """Gather the facts; what is away becomes a problem, never an error."""
    problems: list[str] = []
    redis = parts.redis
    return Overview(
        base_version=parts.captioners.registry.base_version,
        bundle_loaded=parts.captioners.is_loaded,
        projects=_ask(lambda: tuple(project_facts(parts)), problems),
        queues=_ask(lambda: tuple(queue_facts(redis)), problems),
        workers=_ask(lambda: tuple(worker_facts(redis)), problems),
        jobs=_ask(lambda: recent_jobs(redis), problems),
        problems=tuple(dict.fromkeys(problems)),
    )


def project_facts(parts: CaptioningParts) -> Iterable[ProjectFacts]:
    """Describe every project that ever had a correction."""
    inbox, registry = parts.inbox, parts.captioners.registry
    for project_id in inbox.projects():
        versions = registry.versions(project_id)
        yield ProjectFacts(
            project_id=project_id,
            serving=registry.serving(project_id),
            waiting=inbox.waiting(project_id),
            oldest_waiting_s=inbox.oldest_waiting_s(project_id),
            last_decision=versions[-1].decision if versions else None,
        )


def queue_facts(redis: Redis) -> Iterable[QueueFacts]:
    """Describe both queues."""
    for name in QUEUES:
        jobs = queue(redis, name)
        yield QueueFacts(
            name=name,
            waiting=jobs.count,
            deferred=jobs.deferred_job_registry.get_job_count(cleanup=False),
            scheduled=jobs.scheduled_job_registry.get_job_count(cleanup=False),
            running=jobs.started_job_registry.get_job_count(cleanup=False),
            failed=jobs.failed_job_registry.get_job_count(cleanup=False),
        )


def worker_facts(redis: Redis) -> Iterable[WorkerFacts]:
    """Describe every worker that Redis knows, lost ones too."""
    ages_s = heartbeat_ages_s(redis)
    for worker in Worker.all(connection=redis, serializer=JSONSerializer):
        yield WorkerFacts(
            name=worker.name,
            state=str(worker.get_state()),
            queues=tuple(worker.queue_names()),
            job_id=worker.get_current_job_id(),
            heartbeat_age_s=ages_s.get(worker.name),
        )


def recent_jobs(redis: Redis) -> tuple[JobFacts, ...]:
    """Describe the latest jobs of both queues, the newest first."""
    job_ids = [job_id for name in QUEUES for job_id in _latest_ids(queue(redis, name))]
    found = Job.fetch_many(job_ids, connection=redis, serializer=JSONSerializer)
    facts = [_job_facts(job) for job in found if job is not None]
    return tuple(sorted(facts, key=lambda job: job.at or "", reverse=True)[:JOBS_SHOWN])


def _latest_ids(jobs: Queue) -> list[str]:
    ids = jobs.get_job_ids(0, JOBS_SHOWN)
    for registry in (
        jobs.started_job_registry,
        jobs.finished_job_registry,
        jobs.failed_job_registry,
        jobs.deferred_job_registry,
    ):
        # The newest stand last in a registry.
        ids += registry.get_job_ids(-JOBS_SHOWN, -1, cleanup=False)
    return ids


def _job_facts(job: Job) -> JobFacts:
    moment = job.ended_at or job.started_at or job.enqueued_at
    meta = job.meta or {}
    return JobFacts(
        job_id=job.id,
        work=job.description or job.func_name or "",
        status=job.get_status(refresh=False).value,
        phase=meta.get("phase"),
        at=moment.replace(tzinfo=UTC).isoformat(timespec="seconds") if moment else None,
        problem=cause(job),
    )


def _ask(question: Callable[[], tuple[Facts, ...]], problems: list[str]) -> tuple[Facts, ...]:
    try:
        return question()
    except RedisError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append("Redis cannot be reached: corrections, queues and jobs are not shown")
    except CaptionerError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append(str(problem))
    return ()
