"""Jobs as an admin reads them: purpose, project, progress, and cause of failure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer

from worker.queue.job_failure import cause
from worker.queue.job_metrics import kind_of
from worker.queue.job_state import QUEUES, queue

JOBS_SHOWN = 20
PROJECT_JOBS_AMONG = 100
WORK = {
    "retrain": "train a new version",
    "retrain_if_idle": "check if a training is due",
    "roll_back_if_accepted_less": "compare acceptance with the version before",
    "collect_corrections": "pull corrections",
    "pull_projects": "pull corrections of all projects",
    "refresh_predictions": "replace stored suggestions",
    "connect_project": "check the webhook",
}
"""Purpose of each of our functions, in words."""
UNREADABLE = "unreadable: not a job of the captioner"
STATES = ("running", "waiting", "failed", "finished")


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job."""

    job_id: str
    queue: str
    work: str
    """Purpose, in words."""
    project_id: int | None
    status: str
    phase: str | None
    progress: float | None
    """0 to 1; None when it is unknown."""
    eta_s: float | None
    loss: float | None
    losses: tuple[tuple[int, float], ...]
    """Step and loss, oldest first."""
    at: str | None
    """Time of its end, or of its start, or of its enqueuing, whichever came last; ISO 8601, UTC."""
    seconds: float | None
    """Time that it ran, or has been running."""
    worker: str | None
    problem: str | None
    """Cause of failure, in words."""

    @property
    def can_stop(self) -> bool:
        return self.status == JobStatus.STARTED

    @property
    def can_cancel(self) -> bool:
        return self.status in {JobStatus.QUEUED, JobStatus.DEFERRED, JobStatus.SCHEDULED}

    @property
    def can_retry(self) -> bool:
        return self.status == JobStatus.FAILED


def find_job(redis: Redis, job_id: str) -> JobRecord | None:
    """Return one job; None if Redis does not have it."""
    try:
        return job_record(Job.fetch(job_id, connection=redis, serializer=JSONSerializer))
    except (NoSuchJobError, ValueError):  # RQ accepts only letters, digits, "_" and "-" in an id
        return None


def find_jobs(redis: Redis, job_ids: Sequence[str]) -> dict[str, JobRecord]:
    """Return the jobs that Redis has, by id."""
    jobs = Job.fetch_many(list(job_ids), connection=redis, serializer=JSONSerializer) if job_ids else []
    return {job.id: job_record(job) for job in jobs if job is not None}


def recent_jobs(
    redis: Redis, state: str | None = None, count: int = JOBS_SHOWN, project_id: int | None = None
) -> tuple[JobRecord, ...]:
    """Return the latest jobs of both queues, newest first.

    Args:
        state: one of STATES; None for all.
        count: largest number of jobs to return.
        project_id: only jobs of this project, among the latest PROJECT_JOBS_AMONG; None for every project.
    """
    looked_at = count if project_id is None else PROJECT_JOBS_AMONG
    job_ids = dict.fromkeys(job_id for name in QUEUES for job_id in _latest_ids(queue(redis, name), state, looked_at))
    records = [job for job in find_jobs(redis, list(job_ids)).values() if project_id in {None, job.project_id}]
    return tuple(sorted(records, key=lambda job: job.at or "", reverse=True)[:count])


def job_record(job: Job) -> JobRecord:
    """Describe a job; reads its result from Redis only if it failed."""
    status = job.get_status(refresh=False)
    moment = job.ended_at or job.started_at or job.enqueued_at
    meta = job.meta or {}
    name, project_id = _call(job)
    return JobRecord(
        job_id=job.id,
        queue=job.origin,
        work=WORK.get(name, name),
        project_id=project_id,
        status=status.value,
        phase=meta.get("phase"),
        progress=_progress(meta),
        eta_s=meta.get("eta_s"),
        loss=meta.get("loss"),
        losses=tuple((int(step), float(loss)) for step, loss in meta.get("losses", ())),
        at=utc(moment).isoformat(timespec="seconds") if moment else None,
        seconds=_seconds(job, status),
        worker=job.worker_name,
        problem=cause(job),
    )


def utc(moment: datetime) -> datetime:
    """Return a time with its zone: RQ's times are UTC, but some versions of RQ leave the zone out."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _latest_ids(jobs: Queue, state: str | None, count: int) -> Iterator[str]:
    if state in {None, "waiting"}:
        yield from jobs.get_job_ids(0, count)
    # The newest jobs are last in a registry.
    for name, registry in (
        ("running", jobs.started_job_registry),
        ("finished", jobs.finished_job_registry),
        ("failed", jobs.failed_job_registry),
        ("failed", jobs.canceled_job_registry),
        ("waiting", jobs.deferred_job_registry),
    ):
        if state in {None, name}:
            yield from registry.get_job_ids(-count, -1, cleanup=False)
    if state == "waiting":  # scheduled jobs would only distract among all others
        yield from jobs.scheduled_job_registry.get_job_ids(0, count, cleanup=False)


def _call(job: Job) -> tuple[str, int | None]:
    """Return a job's function and its project."""
    try:
        name, arguments = kind_of(job), job.args
    except DeserializationError:  # not a job of the captioner
        return UNREADABLE, None
    match arguments:
        case [int(first), *_]:
            return name, first
    return name, None


def _progress(meta: dict[str, Any]) -> float | None:
    done, total = meta.get("done", meta.get("epoch")), meta.get("total", meta.get("epochs"))
    return done / total if isinstance(done, int) and isinstance(total, int) and total > 0 else None


def _seconds(job: Job, status: JobStatus) -> float | None:
    if job.started_at is None:
        return None
    end = job.ended_at if status != JobStatus.STARTED else None
    return (utc(end or datetime.now(UTC)) - utc(job.started_at)).total_seconds()
