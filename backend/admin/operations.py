"""Health and metrics: `/ready` and `/metrics`."""

from collections.abc import Callable
from http import HTTPStatus

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis import RedisError

from backend.captioning.services import current_services
from backend.captioning.serving_versions import ServingCaptioners
from model.errors import CaptionerError

operations = Blueprint("operations", __name__)


@operations.get("/ready")
def ready() -> tuple[Response, int]:
    """Answer 200 if Redis, the store and the model can be used, else 503 with the reason for each; and what computes
    captions."""
    services = current_services()
    checks = {
        "redis": _reason(services.redis.ping),
        "store": _reason(lambda: services.store.exists("ready")),
        "model": _model_reason(services.captioners),
    }
    is_ready = set(checks.values()) == {"ok"}
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return jsonify(ready=is_ready, checks=checks, runtime=services.captioners.runtime), status


@operations.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(current_services().metrics.registry), content_type=CONTENT_TYPE_LATEST)


def _model_reason(captioners: ServingCaptioners) -> str:
    if captioners.is_loaded:
        return "ok"
    problem = captioners.loading_problem
    return problem.partition("\n")[0] if problem else "the bundle is not loaded yet"


def _reason(check: Callable[[], object]) -> str:
    try:
        check()
    except RedisError:
        return "Redis cannot be reached"
    except CaptionerError:
        return "the model store cannot be read"
    return "ok"
