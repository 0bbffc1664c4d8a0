"""Scheduled jobs: pulls, retries, look-alikes and checks for quiet. Each enters its queue when its time has come.

Every worker and every backend looks each second, beside `worker/queue/lost_jobs.py`. RQ's own scheduler is a process
that holds a lock of a minute. When it died, nothing scheduled began until the lock was over.
"""

import logging
import time
from typing import Any

from redis import Redis
from redis.exceptions import WatchError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from worker.queue.job_state import QUEUES, queue
from worker.queue.rq_private import enqueue_now
from worker.settings import Settings

logger = logging.getLogger(__name__)

LONGEST_DELAY_S = 1800
"""Of a job that settings do not delay, such as the last retry of a job that talks to Label Studio."""


def longest_delay_s(settings: Settings) -> float:
    """Return the longest time for which a job can be scheduled ahead."""
    return float(max(settings.retrain_idle_s, settings.reconcile_every_s) + LONGEST_DELAY_S)


def enqueue_due_jobs(redis: Redis, longest_s: float) -> None:
    """Put every job whose time has come into its queue.

    A job that is scheduled more than `longest_s` ahead is due too: the clock was set back after it was scheduled.
    """
    for name in QUEUES:
        home, now_s = queue(redis, name), time.time()
        schedule = home.scheduled_job_registry.key
        due: list[Any] = redis.zrangebyscore(schedule, "-inf", now_s)
        far: list[Any] = redis.zrangebyscore(schedule, now_s + longest_s, "+inf")
        if far:
            logger.warning("clock was set back queue=%s jobs=%s", name, len(far))
        for job_id in (*due, *far):
            _enqueue(redis, home, as_text(job_id))


def _enqueue(redis: Redis, home: Queue, job_id: str) -> None:
    """Move a job from the schedule into its queue, unless another process does."""
    schedule = home.scheduled_job_registry.key
    with redis.pipeline() as pipeline:
        pipeline.watch(schedule)
        if pipeline.zscore(schedule, job_id) is None:
            return
        try:
            job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
        except NoSuchJobError:
            job = None
        pipeline.multi()
        pipeline.zrem(schedule, job_id)
        if job is not None:
            enqueue_now(home, job, pipeline)
        try:
            pipeline.execute()
        except WatchError:
            return  # the schedule has changed; the next look comes in a second
