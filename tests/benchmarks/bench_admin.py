"""Measures how long the admin pages take on a server with many projects, corrections and jobs.

    python -m tests.benchmarks.bench_admin [--projects 50] [--corrections 1000000] [--jobs 10000]

It fills a real Redis as webhooks and workers would, which takes some minutes and 2 GB. Then it requests each page
twenty times through the whole application, login included, and prints the median and the slowest time.
"""

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from model.progress import Progress, ProgressDisplay
from model.registry import ModelRegistry
from tests.backend_client import BackendClient, make_settings
from tests.factories import make_correction, make_state, write_bundle
from tests.redis_server import RedisServer
from worker.feedback.feedback_store import record_command
from worker.feedback.layout import open_layout, run_all
from worker.feedback.record import Correction
from worker.queue.job_state import RETRAIN_QUEUE, queue

LOGIN = ("admin", "secret")
TIMES = 20
AT_ONCE = 2000
VERSIONS = 20
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
BAR_MS = 200.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_admin", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--projects", type=int, default=50)
    parser.add_argument("--corrections", type=int, default=1_000_000, help="of all projects together")
    parser.add_argument("--jobs", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder / "bundle")
        server = RedisServer(folder / "redis")
        server.start()
        try:
            settings = make_settings(folder, redis_url=server.url, basic_auth_user=LOGIN[0], basic_auth_pass=LOGIN[1])
            backend = BackendClient(settings, login=LOGIN)
            backend.services.captioners.bundle()
            with ProgressDisplay() as show:
                for progress in fill(backend, arguments.projects, arguments.corrections, arguments.jobs):
                    show(progress)
            rows = {path: times_ms(backend, path) for path in pages(backend)}
        finally:
            server.kill()
    print(f"{'page':60} {'median ms':>10} {'slowest ms':>10}")
    for path, taken in rows.items():
        print(f"{path:60} {median(taken):10.1f} {max(taken):10.1f}")
    slowest = max(rows["/admin/"])
    print(
        json.dumps({"bars": {"overview_ms": {"value": round(slowest, 1), "bar": BAR_MS, "holds": slowest <= BAR_MS}}})
    )


def pages(backend: BackendClient) -> list[str]:
    version = backend.services.captioners.registry.versions(1)[-1].name
    search = "/admin/projects/1/corrections/"
    return [
        "/admin/",
        "/admin/projects/1/",
        f"/admin/projects/1/versions/{version}/",
        search,
        f"{search}?text=nobody+writes+this",
        "/admin/jobs/",
        "/admin/jobs/?state=failed",
        "/metrics",
    ]


def times_ms(backend: BackendClient, path: str) -> list[float]:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        response = backend.get(path)
        taken.append(1000 * (time.perf_counter() - began))
        assert response.status_code == 200, response.text
    return taken


def fill(backend: BackendClient, projects: int, corrections: int, jobs: int) -> Iterator[Progress]:
    """Make projects with corrections, a ledger and versions, and jobs that ended."""
    registry = backend.services.captioners.registry
    redis = Redis.from_url(backend.settings.redis_url, socket_timeout=60)
    redis.config_set("appendfsync", "no")
    for project_id in range(1, projects + 1):
        store_corrections(redis, project_id, corrections // projects, registry.base_version)
        make_versions(registry, backend, project_id)
        yield Progress(phase="projects", done=project_id, total=projects)
    for start in range(0, jobs, AT_ONCE):
        store_jobs(redis, range(start, min(jobs, start + AT_ONCE)), projects)
        yield Progress(phase="jobs", done=min(jobs, start + AT_ONCE), total=jobs)


def store_corrections(redis: Redis, project_id: int, count: int, version: str) -> None:
    draw = random.Random(project_id)
    open_layout(redis)
    for start in range(1, count + 1, AT_ONCE):
        numbers = range(start, min(count, start + AT_ONCE - 1) + 1)
        made = [make(project_id, number, version, draw) for number in numbers]
        run_all(redis, project_id, [record_command(make_state(correction), [correction]) for correction in made])


def make(project_id: int, number: int, version: str, draw: random.Random) -> Correction:
    animals, actions = ("dog", "cat", "horse", "bird"), ("runs", "sleeps", "eats", "looks at the camera")
    proposed = f"a {draw.choice(animals)} {draw.choice(actions)}"
    return make_correction(
        project_id=project_id,
        annotation_id=number,
        image_key=hashlib.sha256(f"{project_id} {number}".encode()).hexdigest(),
        proposed=proposed,
        caption=proposed if draw.random() < 0.6 else f"a {draw.choice(animals)} {draw.choice(actions)}",
        annotator=draw.randrange(20),
        model_version=version,
        updated_at=(BEGIN + timedelta(seconds=number)).isoformat(),
    )


def make_versions(registry: ModelRegistry, backend: BackendClient, project_id: int) -> None:
    captioner = backend.trainable_captioner()
    parent = registry.base_version
    for number in range(VERSIONS):
        keep = registry.publish if number % 2 else registry.refuse
        names = [f"{annotation_id}/caption" for annotation_id in range(1, 700)]
        made = keep(
            project_id,
            captioner,
            parent=parent,
            metrics={"new": {"captions": 5, "candidate": 0.5, "serving": 0.7, "better_in": 0.98}},
            corrections=names,
            decision="better in 98% of draws",
        )
        parent = made.name if made.published else parent


def store_jobs(redis: Redis, numbers: range, projects: int) -> None:
    retrain = queue(redis, RETRAIN_QUEUE)
    with redis.pipeline(transaction=False) as pipeline:
        for number in numbers:
            has_failed = number % 10 == 0
            job = Job.create(
                "worker.jobs.retrain",
                args=[number % projects + 1, "20 corrections wait"],
                id=f"retrain-{number % projects + 1}-{number}",
                origin=RETRAIN_QUEUE,
                status=JobStatus.FAILED if has_failed else JobStatus.FINISHED,
                connection=redis,
                serializer=JSONSerializer,
            )
            job.ended_at = BEGIN + timedelta(minutes=number)
            job.started_at = job.enqueued_at = job.ended_at
            job.save(pipeline=pipeline)
            registry = retrain.failed_job_registry if has_failed else retrain.finished_job_registry
            pipeline.zadd(registry.key, {job.id: time.time() + 86_400 + number})
        pipeline.execute()


if __name__ == "__main__":
    main()
