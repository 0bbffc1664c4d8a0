"""Control of retrainings and jobs by a person: pause a project; stop, cancel or retry a job.

Each action takes effect at once or raises JobError with the reason. Doing it twice has the effect of doing it once.
"""

import logging
from contextlib import suppress

from redis import Redis
from rq.command import send_stop_job_command
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import as_text, current_timestamp

from model.errors import JobError
from worker.feedback.waiting import read_waiting
from worker.queue.job_state import FAILURE_KEPT_S, is_pending, is_surely_pending, queue, text_or_none
from worker.queue.lost_jobs import forget_losses
from worker.queue.retraining import PAUSED, enqueue_retraining, last_before_pause, retraining_key
from worker.queue.rq_private import stop_channel
from worker.queue.trigger import forget_idle_check, retrain_when_due
from worker.settings import Settings

logger = logging.getLogger(__name__)

RETRAIN = "worker.jobs.retrain"
IDLE_CHECK = "worker.idle.retrain_if_idle"
WAITING = {JobStatus.QUEUED, JobStatus.DEFERRED, JobStatus.SCHEDULED}


class RetrainingControl:
    """Pauses and resumes the training of projects; corrections are stored in any case."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings

    def state(self, project_id: int) -> str:
        """Return "on", "draining" (a last retraining waits or runs) or "paused"."""
        last = last_before_pause(self.redis, project_id)
        if last is None:
            return "on"
        return "draining" if last and is_pending(self.redis, last) else "paused"

    def pause(self, project_id: int) -> None:
        """Start no retraining of the project from now on; a waiting one is cancelled, a running one goes on."""
        self._pause_after(project_id, "")
        waiting = self._job_id(project_id, "waiting")
        if waiting is not None:
            with suppress(JobError):  # a worker has just taken the job, and the job will notice the pause
                cancel_job(self.redis, waiting)
        logger.info("retraining paused project=%s cancelled=%s", project_id, waiting)

    def drain(self, project_id: int) -> None:
        """Train once on the corrections that wait now, then pause; later corrections wait."""
        if self.state(project_id) == "draining":
            return
        last = self._last_needed(project_id)
        self._pause_after(project_id, last)
        logger.info("retraining draining project=%s last=%s", project_id, last or None)

    def resume(self, project_id: int) -> None:
        """Undo pause and drain, and start a retraining if enough corrections wait.

        Corrections that a stopped or failed retraining has claimed count, too.
        """
        self.redis.hdel(retraining_key(project_id), "last", "began", "stopped")
        retrain_when_due(self.redis, self.settings, project_id)
        logger.info("retraining resumed project=%s", project_id)

    def _last_needed(self, project_id: int) -> str:
        """Return the id of the job that will train on all corrections that wait now; "" if none waits."""
        changes = read_waiting(self.redis, project_id)
        waiting, running = self._job_id(project_id, "waiting"), self._job_id(project_id, "running")
        if waiting is not None and is_surely_pending(self.redis, waiting):
            return waiting
        if running is not None and is_surely_pending(self.redis, running) and not changes.unclaimed:
            return running
        if not changes.count:
            return ""
        self.redis.hdel(retraining_key(project_id), "last")
        return enqueue_retraining(self.redis, self.settings, project_id, "the last one before a pause")

    def _pause_after(self, project_id: int, job_id: str) -> None:
        self.redis.hset(retraining_key(project_id), "last", job_id)

    def _job_id(self, project_id: int, field: str) -> str | None:
        return text_or_none(self.redis.hget(retraining_key(project_id), field))


def stop_job(redis: Redis, job_id: str) -> None:
    """Have the process of a running job killed within seconds; the job fails as stopped by a person.

    Raises:
        JobError: the job does not run, or its worker does not listen.
    """
    job = _fetch(redis, job_id)
    if job.get_status(refresh=False) != JobStatus.STARTED:
        raise JobError(f"Job {job_id} does not run (it is {_status(job)}), so there is nothing to stop.")
    [(_, listening)] = redis.pubsub_numsub(stop_channel(str(job.worker_name)))
    if not listening:
        raise JobError(
            f"Worker {job.worker_name} of job {job_id} does not listen. "
            f"If the worker is lost, the job is taken from it within 15 s."
        )
    _remember_stop(redis, job)
    send_stop_job_command(redis, job_id, serializer=JSONSerializer)
    logger.info("job stopped queue=%s job=%s worker=%s", job.origin, job_id, job.worker_name)


def cancel_job(redis: Redis, job_id: str) -> None:
    """Take a waiting job out of its queue for good; jobs that wait for it go on without it.

    Raises:
        JobError: the job runs or has ended.
    """
    job = _fetch(redis, job_id)
    home, status = queue(redis, job.origin), job.get_status(refresh=False)
    if status not in WAITING:
        raise JobError(f"Job {job_id} does not wait (it is {_status(job)}), so it cannot be cancelled.")
    if status == JobStatus.QUEUED and not redis.lrem(home.key, 1, job_id):
        raise JobError(f"Job {job_id} is just being started. Stop it in some seconds.")
    for dependent in job.dependent_ids:  # RQ would let them wait for ever
        redis.srem(Job(dependent, connection=redis).dependencies_key, job_id)
    _remember_stop(redis, job)
    job.cancel(enqueue_dependents=True)
    job.cleanup(ttl=FAILURE_KEPT_S)
    cancelled = CanceledJobRegistry(queue=home)
    redis.zremrangebyscore(cancelled.key, "-inf", current_timestamp() - FAILURE_KEPT_S)
    _forget_waiting(redis, job)
    logger.info("job cancelled queue=%s job=%s", job.origin, job_id)


def retry_job(redis: Redis, job_id: str) -> None:
    """Put a job that failed or was stopped at the end of its queue again.

    Raises:
        JobError: the job did not fail, or it is a retraining of a project that is paused or has a waiting one.
    """
    job = _fetch(redis, job_id)
    if job_id not in queue(redis, job.origin).failed_job_registry:
        raise JobError(f"Job {job_id} did not fail (it is {_status(job)}), so it cannot be retried.")
    project_id = _project_of(job, RETRAIN)
    if project_id is not None:
        _become_waiting_retraining(redis, project_id, job_id)
    forget_losses(redis, job)
    job.requeue()
    logger.info("job retried queue=%s job=%s", job.origin, job_id)


def _remember_stop(redis: Redis, job: Job) -> None:
    """Let no trigger start a retraining that a person stopped, until something changes or a person asks."""
    project_id = _project_of(job, RETRAIN)
    if project_id is not None:
        redis.hset(retraining_key(project_id), "stopped", read_waiting(redis, project_id).change_number)


def _fetch(redis: Redis, job_id: str) -> Job:
    try:
        return Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    except NoSuchJobError as cause:
        raise JobError(f"There is no job {job_id}, or it is no longer kept.") from cause


def _status(job: Job) -> str:
    return job.get_status(refresh=False).value


def _project_of(job: Job, function: str) -> int | None:
    """Return the project of a job, if it is a call of this function."""
    try:
        return int(job.args[0]) if job.func_name == function else None
    except DeserializationError:  # not a job of ours
        return None


def _become_waiting_retraining(redis: Redis, project_id: int, job_id: str) -> None:
    """Make the job the project's waiting retraining, like one that `enqueue_retraining` makes."""
    if last_before_pause(redis, project_id) is not None:
        raise JobError(PAUSED.format(project_id=project_id))
    waiting = redis.hget(retraining_key(project_id), "waiting")
    if waiting is not None and is_surely_pending(redis, as_text(waiting)):
        raise JobError(f"A retraining of project {project_id} waits already: {as_text(waiting)}.")
    redis.hset(retraining_key(project_id), "waiting", job_id)


def _forget_waiting(redis: Redis, job: Job) -> None:
    """Let the next trigger start another job like the cancelled one."""
    if (project_id := _project_of(job, IDLE_CHECK)) is not None:
        forget_idle_check(redis, project_id)
    project_id = _project_of(job, RETRAIN)
    if project_id is not None and redis.hget(retraining_key(project_id), "waiting") == job.id.encode():
        redis.hdel(retraining_key(project_id), "waiting")
