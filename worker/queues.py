"""The two RQ queues, and every way a job gets into them.

`label-studio` holds jobs that talk to Label Studio (functions of `backend.jobs`), `retrain` holds retrainings and the
checks that lead to one. Jobs carry ids as JSON, never pickles; each has its time limit and may run twice without harm.
"""

from dataclasses import dataclass
from typing import Any

from redis import Redis

from worker.settings import Settings

LABEL_STUDIO_QUEUE = "label-studio"
RETRAIN_QUEUE = "retrain"


@dataclass(frozen=True, kw_only=True)
class QueueReport:
    """One queue as an admin sees it; counts of jobs."""

    name: str
    waiting: int
    deferred: int
    """Jobs that wait for another job."""
    scheduled: int
    """Jobs that wait for their time: checks to come and retries."""
    running: int
    failed: int
    finished: int
    """Jobs whose result is still kept."""
    workers: int
    """Live workers that listen to it."""


def connect(redis_url: str) -> Redis:
    """Return a client that gives up fast: a webhook has one second, and a lost event is pulled later."""
    raise NotImplementedError


def retrain_when_due(redis: Redis, settings: Settings, project_id: int) -> str | None:
    """After a change of the inbox: start a retraining when enough changes wait, else see to the check for quiet.

    Returns:
        the id of the retraining that will see the change, or None while it is not due.
    """
    raise NotImplementedError


def enqueue_retraining(redis: Redis, settings: Settings, project_id: int, reason: str) -> str:
    """See to it that a retraining of the project starts after this moment; returns its job id.

    At most one runs and one waits per project: a trigger joins the one that waits. What annotations Label Studio has
    and we do not is pulled first (`backend.jobs.collect_corrections`).
    """
    raise NotImplementedError


def schedule_idle_check(redis: Redis, settings: Settings, project_id: int) -> None:
    """See to it that RETRAIN_IDLE_S after the newest change a retraining starts, if any change still waits then."""
    raise NotImplementedError


def enqueue_backend_job(redis: Redis, name: str, *args: Any) -> str:
    """Enqueue `backend.jobs.<name>(*args)` on the label-studio queue; args must be JSON. Returns the job id."""
    raise NotImplementedError


def queue_reports(redis: Redis) -> list[QueueReport]:
    """Describe both queues."""
    raise NotImplementedError
