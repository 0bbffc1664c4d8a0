"""The Flask application: services that live as long as the process, routes, protection and error answers."""

import json
import logging
import time
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from flask.json.provider import DefaultJSONProvider

from backend.access.login import ADMIN_PATH, protect
from backend.access.path_prefix import PathPrefix
from backend.access.throttle import Throttle
from backend.admin.access import Access
from backend.admin.admin_services import add_admin_services
from backend.admin.api import api
from backend.admin.audit_pages import audit_pages
from backend.admin.operations import operations
from backend.admin.pages import admin
from backend.admin.queue_pages import mount_queue_pages
from backend.admin.sessions import SignedOut
from backend.admin.shared_metrics import SharedMetrics
from backend.admin.sign_in import sign_in
from backend.admin.users import Users
from backend.captioning.services import EXTENSION, make_services
from backend.error_answers import answer_errors
from backend.metrics import Metrics
from backend.protocol.headers import REQUEST_ID_HEADER
from backend.routes import routes
from model.runtime.serving_bundle import LoadedBundle
from worker.audit import AuditLog
from worker.request_id import begin_request, end_request
from worker.settings import Settings

logger = logging.getLogger(__name__)

PROBES = ("/", "/health", "/ready", "/metrics")


class FiniteJSON(DefaultJSONProvider):
    """Writes NaN and infinity as null, because JSON has neither; the loss of a failed training can be such a number."""

    def dumps(self, obj: Any, **options: Any) -> str:
        try:
            return super().dumps(obj, allow_nan=False, **options)
        except ValueError:
            finite = json.loads(super().dumps(obj, **options), parse_constant=lambda _number: None)
            return super().dumps(finite, **options)


def create_app(settings: Settings, loading: "Future[LoadedBundle] | None" = None) -> Flask:
    """Return the application; nothing is connected yet, and no thread runs.

    Args:
        settings: of the process.
        loading: the bundle, if it is being loaded already.

    Raises:
        BundleError: CAPTION_BUNDLE names no bundle.
        StoreError: MODEL_STORE is no place where files can be kept.
    """
    app = Flask(__name__, static_url_path=f"{ADMIN_PATH}/static")
    app.json = FiniteJSON(app)
    app.wsgi_app = PathPrefix(app.wsgi_app)  # type: ignore[method-assign]  # as Flask documents it
    services = make_services(settings, loading)
    app.extensions[EXTENSION] = services
    answer_errors(app)
    _watch_requests(app, services.metrics)
    throttle, audit = Throttle(settings.redis_url), AuditLog(services.redis)
    protect(app, settings, throttle, audit)
    Access(Users(settings), throttle, audit, SignedOut(services.redis)).guard(app)
    app.register_blueprint(routes)
    app.register_blueprint(operations)
    admin_services = add_admin_services(app, settings)
    app.register_blueprint(admin)
    app.register_blueprint(api)
    app.register_blueprint(sign_in)
    app.register_blueprint(audit_pages)
    mount_queue_pages(app, settings.redis_url)
    services.metrics.registry.register(SharedMetrics(services, admin_services.label_studio))
    return app


def _watch_requests(app: Flask, metrics: Metrics) -> None:
    """Give every request an id, count, time and log it, and add the headers that browsers expect."""

    @app.before_request
    def remember_arrival() -> None:
        g.request_id = begin_request(request.headers.get(REQUEST_ID_HEADER))
        g.arrived_at = time.perf_counter()

    @app.after_request
    def report_answer(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        seconds = time.perf_counter() - g.arrived_at
        metrics.observe_request(route, response.status_code, seconds)
        # Probes come every few seconds, so only those with a wrong answer are logged.
        level = logging.DEBUG if route in PROBES and response.status_code == HTTPStatus.OK else logging.INFO
        answer = (request.method, route, response.status_code, round(seconds, 4))
        logger.log(level, "request done method=%s route=%s status=%s seconds=%s", *answer)
        response.headers[REQUEST_ID_HEADER] = g.request_id
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        return response

    @app.teardown_request
    def forget_request(_problem: BaseException | None) -> None:
        end_request()
