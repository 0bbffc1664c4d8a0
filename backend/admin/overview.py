"""What an admin wants to know at a glance, from Redis and the store; whichever is away is said and left out."""

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

Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """One queue, in jobs."""

    name: str
    waiting: int
    oldest_waiting_s: float | None
    """How long the next job has waited; None when none does."""
    deferred: int
    """Wait for another job."""
    scheduled: int
    """Wait for their time: retries and checks to come."""
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
    """All of it."""

    base_version: str
    bundle_loaded: bool
    problems: tuple[str, ...]
    """What could not be asked, in words."""
    health: tuple[Health, ...]
    projects: tuple[ProjectStatus, ...]
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerStatus, ...]
    jobs: tuple[JobRecord, ...]

    @property
    def verdict(self) -> str:
        """How everything stands, in one line."""
        if self.problems:
            return self.problems[0]
        ill = [health for health in self.health if not health.is_well]
        stuck = [project for project in self.projects if project.verdict.standing in {"stuck", "failed"}]
        if stuck:
            return f"project {stuck[0].project_id} {stuck[0].verdict.words}"
        if ill:
            return f"{ill[0].name}: {ill[0].words}"
        learning = [str(project.project_id) for project in self.projects if project.verdict.standing == "learning"]
        if learning:
            return f"learning from the corrections of project {', '.join(learning)}"
        return "all is well" if self.projects else "ready; no annotator has submitted a caption yet"


def read_overview(services: CaptioningServices, label_studio: LabelStudioHealth, *, redis_answers: bool) -> Overview:
    """Gather the facts; what is away becomes a problem, never an error.

    Args:
        services: of the process.
        label_studio: how Label Studio was lately.
        redis_answers: False where it was asked just now; then it is not waited for once more.
    """
    problems = [] if redis_answers else [REDIS_AWAY]
    redis = services.redis

    def ask_redis(question: Callable[[], tuple[Facts, ...]]) -> tuple[Facts, ...]:
        return ask(question, problems) if redis_answers else ()

    workers = ask_redis(lambda: tuple(worker_statuses(redis)))
    alive = {worker.name: worker.is_alive for worker in workers}
    return Overview(
        base_version=services.captioners.registry.base_version,
        bundle_loaded=services.captioners.is_loaded,
        health=check_dependencies(services, label_studio, redis_answers=redis_answers),
        projects=ask_redis(lambda: project_statuses(services, alive, services.inbox.projects())),
        queues=ask_redis(lambda: tuple(queue_statuses(redis))),
        workers=workers,
        jobs=ask_redis(lambda: recent_jobs(redis)),
        problems=tuple(dict.fromkeys(problems)),
    )


def read_project(services: CaptioningServices, project_id: int) -> ProjectStatus:
    """Gather the facts of one project."""
    alive = {worker.name: worker.is_alive for worker in worker_statuses(services.redis)}
    (found,) = project_statuses(services, alive, [project_id])
    return found


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
    """Describe every worker that Redis knows, lost ones too."""
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
    found = Job.fetch_many(jobs.get_job_ids(0, 1), connection=jobs.connection, serializer=JSONSerializer)
    moment = next((job.enqueued_at for job in found if job is not None), None)
    return None if moment is None else (datetime.now(UTC) - utc(moment)).total_seconds()


def ask(question: Callable[[], tuple[Facts, ...]], problems: list[str]) -> tuple[Facts, ...]:
    """Return the answer; what is away is told among the problems."""
    try:
        return question()
    except RedisError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append(REDIS_AWAY)
    except CaptionerError as problem:
        logger.warning("overview incomplete problem=%s", problem)
        problems.append(str(problem))
    return ()
