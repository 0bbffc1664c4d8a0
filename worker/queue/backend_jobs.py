"""Jobs that talk to Label Studio: functions of `backend.jobs`, enqueued by name."""

from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from rq import Retry
from rq.job import JobStatus

from worker.queue.job_origin import job_origin
from worker.queue.job_state import (
    FAILURE_KEPT_S,
    LABEL_STUDIO_QUEUE,
    RESULT_KEPT_S,
    new_job_id,
    queue,
)
from worker.settings import Settings

BACKEND_JOB_LIMIT_S = 1800
LOOK_ALIKES_S = 30
"""Delay of the refresh of look-alikes: corrections that come meanwhile are treated together."""
REFRESH_SOON_S = 10
"""Delay of a refresh after a change of the labeling config, which an owner may change again at once."""
LABEL_STUDIO_RETRIES = Retry(max=4, interval=[10, 60, 300, 1800])


def enqueue_backend_job(redis: Redis, name: str, *args: Any, delay_s: int = 0) -> str:
    """Enqueue `backend.jobs.<name>(*args)` on the label-studio queue, at once or after a delay; return the job's id.

    The arguments must be JSON.
    """
    label_studio = queue(redis, LABEL_STUDIO_QUEUE)
    job = label_studio.create_job(
        f"backend.jobs.{name}",
        args=args,
        job_id=new_job_id(name.replace("_", "-"), *args[:1]),
        timeout=BACKEND_JOB_LIMIT_S,
        result_ttl=RESULT_KEPT_S,
        failure_ttl=FAILURE_KEPT_S,
        meta=job_origin(),
        retry=LABEL_STUDIO_RETRIES,
        status=JobStatus.SCHEDULED if delay_s else JobStatus.QUEUED,
    )
    if delay_s:
        label_studio.schedule_job(job, datetime.now(UTC) + timedelta(seconds=delay_s))
    else:
        label_studio.enqueue_job(job)
    return str(job.id)


def enqueue_refresh(
    redis: Redis, settings: Settings, project_id: int, version: str, *after_id: int, delay_s: int = 0
) -> str | None:
    """Enqueue the job that writes a version's suggestions into Label Studio; needed whenever a version starts to serve.

    Args:
        after_id: id of the last refreshed task; without it the refresh begins with the first task.

    Returns:
        the job id, or None where REFRESH_PREDICTIONS is false.
    """
    if not settings.refresh_predictions:
        return None
    return enqueue_backend_job(redis, "refresh_predictions", project_id, version, *after_id, delay_s=delay_s)


def schedule_refresh(redis: Redis, settings: Settings, project_id: int, version: str) -> str | None:
    """Make sure that a refresh begins within REFRESH_SOON_S; one waits per project, however many changes come.

    Returns:
        the job id, or None where another one waits or REFRESH_PREDICTIONS is false.
    """
    if not redis.set(f"captioner:refresh-soon:{project_id}", 1, nx=True, ex=REFRESH_SOON_S):
        return None
    return enqueue_refresh(redis, settings, project_id, version, delay_s=REFRESH_SOON_S)


def schedule_look_alikes(redis: Redis, settings: Settings, project_id: int) -> None:
    """Make sure that the stored suggestions of look-alikes of corrected images are written again soon.

    One such job waits per project, however many corrections come meanwhile.
    """
    if not settings.refresh_predictions:
        return
    # If Redis loses the job, the key expires, and the next correction schedules another.
    if redis.set(_look_alikes_key(project_id), 1, nx=True, ex=10 * LOOK_ALIKES_S):
        enqueue_backend_job(redis, "refresh_look_alikes", project_id, delay_s=LOOK_ALIKES_S)


def begin_look_alikes(redis: Redis, project_id: int) -> None:
    """Let the next correction schedule such a job again; the job calls this first."""
    redis.delete(_look_alikes_key(project_id))


def _look_alikes_key(project_id: int) -> str:
    return f"captioner:look-alikes:{project_id}"
