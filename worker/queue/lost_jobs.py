"""Jobs whose worker is lost: each runs once more, and fails if its next worker is lost too.

A worker can be lost in the moment between taking a job and recording that. Such an orphaned job is on no list. If our
own keys name it (worker/queue/retraining.py), it is put back into its queue as if nobody had taken it.

Every worker and every backend looks every second, so a loss is noticed as long as one of them is left. The backend
notices the loss of the only worker. The first to notice acts, and no other process does:

    captioner:taken-back:<execution>   text   `begun` by the acting process, then `done`; an execution is a run of a job
    captioner:put-back:<job>           text   exists for a while after an orphaned job was put back

`worker/queue/heartbeats.py` decides that a worker is lost. If it comes back after all, because its machine was asleep,
it finds its execution `done` and ends that run silently (worker/queue/rq_worker.py).
"""

import logging
import threading
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text, now

from worker.feedback.feedback_store import FeedbackStore
from worker.queue.heartbeats import Watch, heartbeats
from worker.queue.job_failure import LOST_TWICE
from worker.queue.job_metrics import JobCounts, kind_of
from worker.queue.job_state import QUEUES, is_pending, queue
from worker.queue.retraining import retrainings_of
from worker.queue.rq_private import enqueue_again, record_failure
from worker.queue.scheduled_jobs import enqueue_due_jobs, longest_delay_s
from worker.redis_client import connect
from worker.settings import Settings

logger = logging.getLogger(__name__)

LOSSES = "lost_workers"
"""Field of RQ's hash of a job: the number of its workers that were lost."""
ACTING_S = 60
"""If the acting process is lost itself, another one acts after this time."""
DONE_KEPT_S = 24 * 3600


def watch_beside(settings: Settings) -> None:
    """Take back lost jobs and begin scheduled ones for as long as this process lives, in a thread of its own."""
    threading.Thread(target=_watch_on, args=(settings,), name="jobs", daemon=True).start()


def _watch_on(settings: Settings) -> None:
    redis, workers, orphans, pause = connect(settings.redis_url), Watch(), Watch(), threading.Event()
    longest_s = longest_delay_s(settings)
    while True:
        try:
            take_back_lost_jobs(redis, workers)
            put_back_orphaned_jobs(redis, orphans)
            enqueue_due_jobs(redis, longest_s)
        except RedisError:
            workers.forget()
            orphans.forget()
        except Exception:
            logger.exception("jobs not looked after")  # a single odd job must not end the watch
        pause.wait(Watch.LOOK_EVERY_S)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a job, by the worker that took it."""

    queue_name: str
    job_id: str
    execution_id: str
    worker: str


def take_back_lost_jobs(redis: Redis, watch: Watch) -> None:
    """Look once, and take back the jobs of every worker that the watch takes for lost."""
    runs = running(redis)
    lost = watch.look(heartbeats(redis), {run.worker for run in runs})
    for run in runs:
        if run.worker in lost and redis.set(_taken_key(run.execution_id), "begun", nx=True, ex=ACTING_S):
            take_back(redis, run)


def running(redis: Redis) -> list[Run]:
    """Return the runs that have not ended, also those of silent workers."""
    runs = []
    for name in QUEUES:
        for job_id, execution_id in queue(redis, name).started_job_registry.get_job_and_execution_ids(cleanup=False):
            execution = Execution(execution_id, job_id, redis)
            worker = as_text(redis.hget(execution.key, "worker_name") or "")
            runs.append(Run(queue_name=name, job_id=job_id, execution_id=execution_id, worker=worker))
    return runs


def take_back(redis: Redis, run: Run) -> None:
    """Put a job that lost its worker at the front of its queue, or fail it if that has happened before."""
    home = queue(redis, run.queue_name)
    try:
        job = Job.fetch(run.job_id, connection=redis, serializer=JSONSerializer)
        is_open = job.get_status(refresh=False) in {JobStatus.QUEUED, JobStatus.STARTED}
        losses, began = int(redis.hget(job.key, LOSSES) or 0) + 1, job.started_at
    except NoSuchJobError:
        is_open = False
    with redis.pipeline() as pipeline:
        execution = Execution(run.execution_id, run.job_id, redis)
        pipeline.delete(execution.key)
        home.started_job_registry.remove_execution(execution, pipeline=pipeline)
        ExecutionRegistry(run.job_id, redis).remove(execution, pipeline)
        pipeline.set(_taken_key(run.execution_id), "done", ex=DONE_KEPT_S)
        if is_open:
            pipeline.hset(job.key, LOSSES, losses)
            _repeat(home, job, pipeline) if losses == 1 else _fail(job, run.worker, pipeline)
        pipeline.execute()
    if not is_open:
        return
    if losses > 1:
        home.enqueue_dependents(job)
    outcome = "queued again" if losses == 1 else "failed"
    seconds = (now() - began).total_seconds() if began else 0.0
    JobCounts(redis).job_ended(kind_of(job), "lost" if losses == 1 else "failed", seconds)
    logger.warning("worker lost name=%s queue=%s job=%s outcome=%r", run.worker, home.name, job.id, outcome)


def put_back_orphaned_jobs(redis: Redis, watch: Watch) -> None:
    """Look once, and put back every job that has been orphaned for LOST_AFTER_S.

    A shorter time proves nothing, because RQ moves jobs between lists. If the worker comes back, the job runs twice.
    """
    orphaned = find_orphaned_jobs(redis)
    for job_id in watch.look({}, orphaned):
        if redis.set(f"captioner:put-back:{job_id}", "", nx=True, ex=ACTING_S):
            home = orphaned[job_id]
            with redis.pipeline() as pipeline:
                pipeline.lrem(home.intermediate_queue_key, 0, job_id)
                home.push_job_id(job_id, pipeline=pipeline, at_front=True)
                pipeline.execute()
            logger.warning("job put back queue=%s job=%s reason='it was on no list'", home.name, job_id)


def find_orphaned_jobs(redis: Redis) -> dict[str, Queue]:
    """Return the queue of each queued job that is on no list: a retraining, or a job that a retraining waits for."""
    projects = retrainings_of(redis, FeedbackStore(redis).projects()).values()
    job_ids = {job_id for project in projects for job_id in (project.waiting, project.running) if job_id}
    named = _fetch(redis, job_ids)
    awaited = _fetch(redis, {dependency for job in named for dependency in job.dependency_ids})
    return {
        job.id: queue(redis, job.origin)
        for job in (*named, *awaited)
        if job.get_status(refresh=False) == JobStatus.QUEUED and not is_pending(redis, job.id)
    }


def _fetch(redis: Redis, job_ids: set[str]) -> list[Job]:
    """Return the jobs that Redis knows."""
    jobs = Job.fetch_many(sorted(job_ids), connection=redis, serializer=JSONSerializer)
    return [job for job in jobs if job is not None]


def is_taken_back(redis: Redis, execution_id: str) -> bool:
    """Return True if a run was given up as lost, and its job with it."""
    return bool(redis.get(_taken_key(execution_id)) == b"done")


def forget_losses(redis: Redis, job: Job) -> None:
    """Let a job that a person retries be repeated again after a loss."""
    redis.hdel(job.key, LOSSES)


def _repeat(home: Queue, job: Job, pipeline: Pipeline) -> None:
    job.started_at = job.ended_at = None
    enqueue_again(home, job, pipeline)


def _fail(job: Job, worker: str, pipeline: Pipeline) -> None:
    job.ended_at = now()
    job.set_status(JobStatus.FAILED, pipeline=pipeline)
    record_failure(job, f"{LOST_TWICE}: {worker}", pipeline, worker)


def _taken_key(execution_id: str) -> str:
    return f"captioner:taken-back:{execution_id}"
