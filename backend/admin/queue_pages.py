"""rq-dashboard below /admin/queues: the raw queues, workers and jobs, with an audit log.

By default rq-dashboard reads jobs as pickles. Ours are JSON, and nothing from Redis may be unpickled.
"""

import re
import secrets
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from urllib.parse import urlsplit

import rq_dashboard.web
from flask import Flask, Response, render_template, request
from flask_wtf.csrf import generate_csrf
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Worker, requeue_job
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from werkzeug.exceptions import NotFound

from backend.access.login import refuse, wants_page
from backend.admin.access import PAGE_POLICY, write_down
from backend.admin.admin_services import redis_answers
from backend.admin.sessions import is_https
from backend.captioning.services import current_services

QUEUES_PATH = "/admin/queues"
CSRF_COOKIE = "_csrf_token"
"""Cookie whose value rq-dashboard's scripts send as X-CSRFToken."""
ACTIONS = {
    "delete_job_view": "job deleted",
    "requeue_job_view": "job retried",
    "requeue_all": "failed jobs retried",
    "empty_queue": "queue emptied",
    "compact_queue": "queue compacted",
}
"""The audit log's words for rq-dashboard's actions."""
ADDRESSES = {
    "instance_number": "0",
    "registry_name": "queued|scheduled|deferred|started|finished|failed|canceled",
    "per_page": r"[1-9]\d{0,3}",
    "page": r"[1-9]\d{0,8}",
    "order": "asc|dsc",
    "job_id": r"[A-Za-z0-9_-]+",
}
"""Allowed values in an address; rq-dashboard fails on others."""


def mount_queue_pages(app: Flask, redis_url: str) -> None:
    """Add the pages; `backend/admin/access.py` guards them."""
    pages = rq_dashboard.web
    pages.config.serializer = JSONSerializer
    # rq-dashboard 0.9.0 uses this serializer for queues only, and reads jobs and workers as pickles.
    pages.Job = SimpleNamespace(fetch=partial(Job.fetch, serializer=JSONSerializer))
    pages.Worker = SimpleNamespace(all=partial(Worker.all, serializer=JSONSerializer))
    pages.requeue_job = partial(requeue_job, serializer=JSONSerializer)
    # By default it connects again for each request, and waits for Redis without a limit.
    pages.from_url = lambda *_address, **_options: (None, current_services().redis)
    app.config["RQ_DASHBOARD_REDIS_URL"] = _without_login(redis_url)  # the pages show this address
    with app.app_context():
        pages.setup_rq_connection(app)
    app.register_error_handler(InvalidJobOperation, _wrong_state)
    app.register_error_handler(NoSuchJobError, _no_such_job)
    app.register_blueprint(pages.blueprint, url_prefix=QUEUES_PATH)
    for rule in app.url_map.iter_rules(f"{pages.blueprint.name}.requeue_all"):
        rule.methods = {"POST"}  # it accepts GET too, but a link must not act
    app.before_request(_check)
    app.after_request(_finish)


def _check() -> str | None:
    """Refuse addresses that do not exist; replace every page by a notice while Redis does not answer."""
    if request.blueprint != rq_dashboard.web.blueprint.name:
        return None
    values = request.view_args or {}
    if not all(re.fullmatch(ADDRESSES[name], str(values[name])) for name in ADDRESSES.keys() & values.keys()):
        raise NotFound
    if redis_answers():
        return None
    if not wants_page(request):
        raise RedisConnectionError("no answer to a ping")
    return render_template("admin/away.html")


def _finish(response: Response) -> Response:
    """Give a page its token and its policy; write an action into the audit log."""
    blueprint, _, view = (request.endpoint or "").rpartition(".")
    if blueprint != rq_dashboard.web.blueprint.name or response.status_code != HTTPStatus.OK:
        return response
    if response.mimetype == "text/html":
        path = request.script_root + QUEUES_PATH
        response.set_cookie(
            CSRF_COOKIE, generate_csrf(), path=path, secure=is_https(), httponly=False, samesite="Strict"
        )
        _run_only_its_scripts(response)
    elif request.method == "POST" and response.get_json()["status"] == "OK":
        write_down(ACTIONS.get(view, view), **(request.view_args or {}))
    return response


def _run_only_its_scripts(response: Response) -> None:
    """Mark the page's own scripts, so that the browser runs no others."""
    mark = secrets.token_urlsafe(16)
    response.set_data(response.get_data(as_text=True).replace("<script", f'<script nonce="{mark}"'))
    # rq-dashboard compiles its templates with eval.
    response.headers["Content-Security-Policy"] = f"{PAGE_POLICY}; script-src 'nonce-{mark}' 'unsafe-eval'"


def _without_login(redis_url: str) -> str:
    """Return the address without user and password, which can be before the host or in the query."""
    parts = urlsplit(redis_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _wrong_state(_problem: InvalidJobOperation) -> Response:
    return refuse(
        HTTPStatus.CONFLICT, "the job is not in a state that allows this; only a failed job can be retried, for example"
    )


def _no_such_job(_problem: NoSuchJobError) -> Response:
    return refuse(HTTPStatus.NOT_FOUND, "there is no such job, or its result is no longer kept")
