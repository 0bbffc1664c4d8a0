"""Operations' side of HTTP: is it ready, what does it count, what is going on."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from http import HTTPStatus

from flask import Blueprint, Response, jsonify, render_template
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError

from backend.admin.overview import look_around
from backend.captioning import CaptioningParts
from backend.routes import parts
from backend.serving import ServingCaptioners
from model.errors import CaptionerError

operations = Blueprint("operations", __name__)


@operations.get("/ready")
def ready() -> tuple[Response, int]:
    """Answer 200 once Redis, the store and the model answer, 503 before; each with its reason."""
    found = parts()
    checks = {
        "redis": _reason(found.redis.ping),
        "store": _reason(lambda: found.store.exists("ready")),
        "model": _model_reason(found.captioners),
    }
    is_ready = set(checks.values()) == {"ok"}
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return jsonify(ready=is_ready, checks=checks), status


@operations.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(parts().metrics.registry), content_type=CONTENT_TYPE_LATEST)


@operations.get("/admin/")
def overview_page() -> str:
    return render_template("overview.html", overview=look_around(parts()))


@operations.get("/admin/api/overview")
def overview() -> Response:
    return jsonify(asdict(look_around(parts())))


def watch_queues(found: CaptioningParts) -> None:
    """Add to the metrics what is asked of Redis and the store only when somebody scrapes."""
    found.metrics.registry.register(_StateCollector(found))


class _StateCollector(Collector):
    """Gauges of what other processes share with us."""

    def __init__(self, found: CaptioningParts) -> None:
        self._parts = found

    def collect(self) -> Iterator[Metric]:
        seen = look_around(self._parts)
        jobs = GaugeMetricFamily("captioner_queue_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for facts in seen.queues:
            for state in ("waiting", "deferred", "scheduled", "running", "failed"):
                jobs.add_metric([facts.name, state], getattr(facts, state))
        waiting = GaugeMetricFamily(
            "captioner_corrections_waiting", "Corrections no training has seen.", labels=["project"]
        )
        serving = GaugeMetricFamily(
            "captioner_serving_version", "1 for the version that serves a project.", labels=["project", "version"]
        )
        for project in seen.projects:
            waiting.add_metric([str(project.project_id)], project.waiting)
            serving.add_metric([str(project.project_id), project.serving], 1)
        alive = sum(worker.is_alive for worker in seen.workers)
        yield jobs
        yield waiting
        yield serving
        yield GaugeMetricFamily("captioner_workers_alive", "RQ workers with a fresh heartbeat.", value=alive)
        yield GaugeMetricFamily(
            "captioner_bundle_loaded", "1 once predictions need not wait.", value=seen.bundle_loaded
        )
        yield GaugeMetricFamily(
            "captioner_state_complete", "0 while Redis or the store cannot be asked.", value=not seen.problems
        )


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
