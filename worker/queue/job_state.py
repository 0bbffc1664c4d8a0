"""The two queues, and the state of jobs."""

import secrets
import time

from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from worker.queue.our_jobs import OurJob

LABEL_STUDIO_QUEUE = "label-studio"
RETRAIN_QUEUE = "retrain"
QUEUES = (LABEL_STUDIO_QUEUE, RETRAIN_QUEUE)
"""In the order in which a worker serves them: short jobs first."""
MOVING_PAUSES_S = (0.0, 0.05, 0.15)
"""A job is on no list for some milliseconds when its dependency has just ended, or when a worker just took it."""


def queue(redis: Redis, name: str) -> Queue:
    """Return one of our queues; everything in it is JSON."""
    return Queue(name, connection=redis, job_class=OurJob, serializer=JSONSerializer)


def is_pending(redis: Redis, job_id: str) -> bool:
    """Return True if a job waits or runs.

    A job that Redis lost is not pending, and neither is a job whose worker died between taking and starting it.
    """
    try:
        job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    home = queue(redis, job.origin)
    match job.get_status(refresh=False):
        case JobStatus.DEFERRED:
            return any(is_pending(redis, dependency) for dependency in job.dependency_ids)
        case JobStatus.SCHEDULED:
            return job_id in home.scheduled_job_registry
        case JobStatus.QUEUED:
            # A job that a worker took stays "queued" until its process has started.
            return home.get_job_position(job_id) is not None or job_id in home.started_job_registry
        case JobStatus.STARTED:
            return job_id in home.started_job_registry
    return False


def is_surely_pending(redis: Redis, job_id: str) -> bool:
    """Return True if a job waits or runs; looks again if RQ may just be moving it between two lists."""
    for pause_s in MOVING_PAUSES_S:
        time.sleep(pause_s)
        if is_pending(redis, job_id):
            return True
    return False


def has_not_started(redis: Redis, job_id: str) -> bool:
    """Return True if a job waits and has not started."""
    if not is_surely_pending(redis, job_id):
        return False
    job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    return job.get_status(refresh=False) in {JobStatus.SCHEDULED, JobStatus.QUEUED}


def text_or_none(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def new_job_id(*parts: object) -> str:
    return "-".join([*map(str, parts), secrets.token_hex(4)])


RESULT_KEPT_S = 24 * 3600
FAILURE_KEPT_S = 30 * 24 * 3600
