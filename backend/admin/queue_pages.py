"""rq-dashboard below /admin/queues: the raw queues, workers and jobs.

It takes every job for a pickle where it is not told otherwise; ours are JSON, and nothing from Redis is unpickled.
"""

from functools import partial
from http import HTTPStatus
from types import SimpleNamespace

import rq_dashboard.web
from flask import Flask, Response
from rq import Worker, requeue_job
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.auth import refuse

QUEUES_PATH = "/admin/queues"


def mount_queue_pages(app: Flask, redis_url: str) -> None:
    """Add the pages; who may see them and act is decided in `backend/auth.py`."""
    pages = rq_dashboard.web
    pages.config.serializer = JSONSerializer
    # rq-dashboard 0.9.0 hands this serializer to queues only; jobs and workers it reads as pickles.
    pages.Job = SimpleNamespace(fetch=partial(Job.fetch, serializer=JSONSerializer))
    pages.Worker = SimpleNamespace(all=partial(Worker.all, serializer=JSONSerializer))
    pages.requeue_job = partial(requeue_job, serializer=JSONSerializer)
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    pages.setup_rq_connection(app)
    app.register_error_handler(InvalidJobOperation, _cannot)
    app.register_error_handler(NoSuchJobError, _gone)
    app.register_blueprint(pages.blueprint, url_prefix=QUEUES_PATH)


def _cannot(_problem: InvalidJobOperation) -> Response:
    return refuse(
        HTTPStatus.CONFLICT, "the job is not in a state in which this can be done, such as failed for a retry"
    )


def _gone(_problem: NoSuchJobError) -> Response:
    return refuse(HTTPStatus.NOT_FOUND, "there is no such job, or its result is no longer kept")
