"""State of everything on one page, from Redis and the store; the page names what is unavailable and leaves it out."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from redis import Redis, RedisError
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.admin.dependencies import Health, check_dependencies
from backend.admin.job_records import JobRecord, recent_jobs, utc
from backend.admin.project_status import ProjectStatus, project_statuses
from backend.captioning.services import CaptioningServices
from backend.label_studio.health import LabelStudioHealth
from model.errors import CaptionerError
from worker.queue.heartbeats import heartbeat_ages_s, is_alive
from worker.queue.job_state import QUEUES, queue

logger = logging.getLogger(__name__)

REDIS_AWAY = "Redis cannot be reached: corrections, queues and jobs are not shown"

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """One queue, in jobs."""

    name: str
    waiting: int
    oldest_waiting_s: float | None
    """Time that the next job has waited; None if no job waits."""
    deferred: int
    """Jobs that wait for another job."""
    scheduled: int
    """Jobs that wait for their time, such as retries and checks."""
    running: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
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
class Overview:
    """Everything on the overview page."""

    base_version: str
    bundle_loaded: bool
    problems: tuple[str, ...]
    """Everything that could not be read, in words."""
    health: tuple[Health, ...]
    projects: tuple[ProjectStatus, ...]
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerStatus, ...]
    jobs: tuple[JobRecord, ...]

    @property
    def verdict(self) -> str:
        """State of everything, in one line."""
        if self.problems:
            return self.problems[0]
        unhealthy = [health for health in self.health if not health.is_well]
        stuck = [project for project in self.projects if project.verdict.standing in {"stuck", "failed"}]
        if stuck:
            return f"project {stuck[0].project_id} {stuck[0].verdict.words}"
        if unhealthy:
            return f"{unhealthy[0].name}: {unhealthy[0].words}"
        learning = [str(project.project_id) for project in self.projects if project.verdict.standing == "learning"]
        if learning:
            return f"learning from the corrections of project {', '.join(learning)}"
        return "all is well" if self.projects else "ready; no annotator has submitted a caption yet"


def read_overview(services: CaptioningServices, label_studio: LabelStudioHealth, *, redis_answers: bool) -> Overview:
    """Read the state of everything; a failing dependency becomes a problem in the result, never an error.

    Args:
        services: the process's services.
        label_studio: the latest state of Label Studio.
        redis_answers: False if Redis just failed to answer; then it is not asked again.
    """
    problems = [] if redis_answers else [REDIS_AWAY]
    redis = services.redis

    def ask_redis(question: Callable[[], tuple[Answer, ...]]) -> tuple[Answer, ...]:
        return ask(question, problems) if redis_answers else ()

    workers = ask_redis(lambda: tuple(worker_statuses(redis)))
    alive = {worker.name: worker.is_alive for worker in workers}
    return Overview(
        base_version=services.captioners.registry.base_version,
        bundle_loaded=services.captioners.is_loaded,
        health=check_dependencies(services, label_studio, redis_answers=redis_answers),
        projects=ask_redis(lambda: project_statuses(services, alive, services.feedback.projects())),
        queues=ask_redis(lambda: tuple(queue_statuses(redis))),
        workers=workers,
        jobs=ask_redis(lambda: recent_jobs(redis)),
        problems=tuple(dict.fromkeys(problems)),
    )


def read_project(services: CaptioningServices, project_id: int) -> ProjectStatus:
    """Read the status of one project."""
    alive = {worker.name: worker.is_alive for worker in worker_statuses(services.redis)}
    (status,) = project_statuses(services, alive, [project_id])
    return status


def queue_statuses(redis: Redis) -> Iterable[QueueStatus]:
    """Describe both queues."""
    for name in QUEUES:
        jobs = queue(redis, name)
        yield QueueStatus(
            name=name,
            waiting=jobs.count,
            oldest_waiting_s=_oldest_waiting_s(jobs),
            deferred=jobs.deferred_job_registry.get_job_count(cleanup=False),
            scheduled=jobs.scheduled_job_registry.get_job_count(cleanup=False),
            running=jobs.started_job_registry.get_job_count(cleanup=False),
            failed=jobs.failed_job_registry.get_job_count(cleanup=False),
        )


def worker_statuses(redis: Redis) -> Iterable[WorkerStatus]:
    """Describe every worker that Redis has, lost workers too."""
    ages_s = heartbeat_ages_s(redis)
    for worker in Worker.all(connection=redis, serializer=JSONSerializer):
        yield WorkerStatus(
            name=worker.name,
            state=str(worker.get_state()),
            queues=tuple(worker.queue_names()),
            job_id=worker.get_current_job_id(),
            heartbeat_age_s=ages_s.get(worker.name),
        )


def _oldest_waiting_s(jobs: Queue) -> float | None:
    first = Job.fetch_many(jobs.get_job_ids(0, 1), connection=jobs.connection, serializer=JSONSerializer)
    moment = next((job.enqueued_at for job in first if job is not None), None)
    return None if moment is None else (datetime.now(UTC) - utc(moment)).total_seconds()


def ask(question: Callable[[], tuple[Answer, ...]], problems: list[str]) -> tuple[Answer, ...]:
    """Return the answer; if it fails, add the reason to the problems and return nothing."""
    try:
        return question()
    except RedisError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append(REDIS_AWAY)
    except CaptionerError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append(str(problem))
    return ()
