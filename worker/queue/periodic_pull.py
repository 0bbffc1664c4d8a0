"""The regular pull of every connected project."""

import time

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq.job import JobStatus

from worker.queue.backend_jobs import BACKEND_JOB_LIMIT_S
from worker.queue.job_state import (
    LABEL_STUDIO_QUEUE,
    has_not_started,
    new_job_id,
    queue,
    text_or_none,
)
from worker.settings import Settings

NEXT_PULL_KEY = "captioner:next-pull"
PULL_KEPT_S = 3600
"""There may be hundreds of pulls a day, all with much the same outcome."""


def schedule_pull(redis: Redis, settings: Settings, delay_s: int | None = None) -> None:
    """Make sure that every connected project is pulled within `delay_s` seconds, by default RECONCILE_EVERY_S.

    Only one pull waits, however many backends and workers call this; a call with a shorter delay brings it forward. A
    pull that already runs does not count.
    """
    if settings.label_studio_api_key is None or (delay_s is None and settings.reconcile_every_s == 0):
        return
    # RQ compares times in whole seconds.
    due = int(time.time()) + (settings.reconcile_every_s if delay_s is None else delay_s)
    while True:
        with redis.pipeline() as pipeline:
            pipeline.watch(NEXT_PULL_KEY)
            waiting = text_or_none(pipeline.get(NEXT_PULL_KEY))
            if waiting is not None and has_not_started(redis, waiting):
                _bring_forward(redis, waiting, due)
                return
            try:
                _schedule_next_pull(redis, pipeline, due)
                return
            except WatchError:
                continue  # another process scheduled one in this moment


def _schedule_next_pull(redis: Redis, pipeline: Pipeline, due: int) -> None:
    """Schedule a pull for this time (Unix, seconds), and name it as the next pull: both or nothing."""
    label_studio = queue(redis, LABEL_STUDIO_QUEUE)
    pull = label_studio.create_job(
        "backend.jobs.pull_projects",
        job_id=new_job_id("pull-projects"),
        timeout=BACKEND_JOB_LIMIT_S,
        result_ttl=PULL_KEPT_S,
        failure_ttl=PULL_KEPT_S,
        status=JobStatus.SCHEDULED,
    )
    pipeline.multi()
    pull.save(pipeline)
    # Not by `enqueue_at`, which does not write the time into the pipeline.
    pipeline.zadd(label_studio.scheduled_job_registry.key, {pull.id: due})
    pipeline.set(NEXT_PULL_KEY, pull.id)
    pipeline.execute()


def _bring_forward(redis: Redis, job_id: str, due: int) -> None:
    """Let a scheduled job start at this time if it would start later."""
    schedule = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.key
    scheduled_for = redis.zscore(schedule, job_id)
    if scheduled_for is not None and scheduled_for > due:
        redis.zadd(schedule, {job_id: due}, xx=True)  # unless RQ has just put it into its queue
