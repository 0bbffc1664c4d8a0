"""Measures what a second backend, a second worker and a million corrections change.

    python -m tests.benchmarks.bench_scaling [--only backends workers corrections] [--photos DIR]

Redis, backends and workers are real and share one model store. docs/scaling.md explains the numbers.
"""

import argparse
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from redis import Redis

from backend.demo.child_processes import (
    Service,
    Services,
    free_port,
    start_backend,
    start_backend_and_worker,
    start_redis,
)
from backend.demo.scenes.drawing import draw_scenes
from tests.benchmarks.bench_memory import store_records
from tests.benchmarks.bench_retrain import HABITS, make_workplace, scenes_world, store_corrections
from tests.benchmarks.bench_serving import LABEL_CONFIG, memory_mb, percentile, wait_for
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.payloads import load_payload
from tests.worker_process import WorkerProcess
from worker.queue.retraining import enqueue_retraining

PARTS = ("backends", "workers", "corrections")
CLIENTS = 8
REQUESTS = 160
TRAININGS = 4
CORRECTIONS = 20
STORED = (0, 10_000, 100_000, 1_000_000)
OF_PROJECT = 100_000
WEBHOOKS = 1000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_scaling", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--photos", type=Path, help="JPEG files to caption instead of drawn pictures")
    arguments = parser.parse_args(argv)
    print(f"{os.cpu_count()} cores")
    for part in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            {"backends": backends, "workers": workers, "corrections": corrections}[part](Path(folder), arguments.photos)


def backends(folder: Path, photos: Path | None) -> None:
    """Print predictions per second of one and of two backends."""
    with ImageServer() as images, Services(folder / "logs") as services:
        pictures = new_pictures(images, photos)
        redis_url = start_redis(services, folder / "redis").url
        running: list[Service] = []
        for count in (1, 2):
            running.append(start_backend(services, settings(folder, redis_url)))
            urls = [service.url for service in running]
            for url in urls:
                predict(url, images, [next(pictures)])  # the first prediction of a backend is slower
            paths = [next(pictures) for _ in range(REQUESTS)]
            new_rate, new_ms = rate(urls, images, paths)
            known_rate, known_ms = rate(urls, images, paths)
            held = sum(memory_mb(service) for service in running)
            print(
                f"{count} backend{'s' * (count > 1)}, {CLIENTS} clients: new images {new_rate:.0f} a second "
                f"(median {new_ms:.0f} ms), known {known_rate:.0f} a second ({known_ms:.0f} ms), {held:.0f} MB"
            )


def workers(folder: Path, _photos: Path | None) -> None:
    """Print the time of trainings of several projects with one and with two workers."""
    with Services(folder / "logs") as services:
        redis_url = start_redis(services, folder / "redis").url
        workplace = make_workplace(redis_url, "scenes", 10**6, folder)
        world = scenes_world(workplace.bundle.captioner())
        processes: list[WorkerProcess] = []
        try:
            for count in (1, 2):
                processes.append(WorkerProcess(folder / f"worker{count}.log", workplace.environment()))
                projects = range(count * 100, count * 100 + TRAININGS)
                for project_id in projects:
                    store_corrections(workplace, world, HABITS[0], project_id, CORRECTIONS)
                began = time.perf_counter()
                jobs = [
                    workplace.job(enqueue_retraining(workplace.redis, workplace.settings, project, "bench"))
                    for project in projects
                ]
                wait_for(lambda these=jobs: all(job.is_finished or job.is_failed for job in these), "the trainings")  # type: ignore[misc]
                took = time.perf_counter() - began
                failed = sum(job.is_failed for job in jobs)
                print(
                    f"{count} worker{'s' * (count > 1)}: {TRAININGS} trainings in {took:.0f} s, "
                    f"{3600 * TRAININGS / took:.0f} an hour, {failed} failed"
                )
        finally:
            for process in processes:
                process.kill()


def corrections(folder: Path, _photos: Path | None) -> None:
    """Print the times of webhooks and `/setup` with so many corrections in Redis."""
    with Services(folder / "logs") as services:
        redis_url = start_redis(services, folder / "redis").url
        backend, _ = start_backend_and_worker(services, settings(folder, redis_url))
        numbers, stored = itertools.count(10**7), 0
        with Redis.from_url(redis_url) as redis:
            for count in STORED:
                for first in range(stored, count, OF_PROJECT):
                    of_project = min(OF_PROJECT, count - first)
                    store_records(redis, 1 + count + first, of_project)
                stored = count
                webhooks = [milliseconds(backend.url + "/webhook", submission(next(numbers))) for _ in range(WEBHOOKS)]
                setups = [milliseconds(backend.url + "/setup", load_payload("02_setup")["body"]) for _ in range(200)]
                memory: Any = redis.info("memory")
                print(
                    f"{count:9} corrections: webhook median {statistics.median(webhooks):.1f} ms, p99 "
                    f"{percentile(webhooks, 0.99):.1f} ms; /setup p99 {percentile(setups, 0.99):.1f} ms; Redis "
                    f"{memory['used_memory'] / 1e6:.0f} MB, backend {memory_mb(backend):.0f} MB",
                    flush=True,
                )


def settings(folder: Path, redis_url: str) -> dict[str, str]:
    return {
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "REDIS_URL": redis_url,
        "MODEL_STORE": str(folder / "store"),
        "CAPTION_BUNDLE": "photos",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "RETRAIN_AFTER": "100000",
        "RETRAIN_IDLE_S": "0",
        "REFRESH_PREDICTIONS": "false",
        "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
    }


def rate(urls: Sequence[str], images: ImageServer, paths: Sequence[str]) -> tuple[float, float]:
    """Return predictions per second and their median time in milliseconds; clients ask the backends in turn."""
    requests_of_clients = list(zip(itertools.cycle(urls), paths, strict=False))
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        took = list(clients.map(lambda each: predict(each[0], images, [each[1]]), requests_of_clients))
    return len(took) / (time.perf_counter() - began), statistics.median(took)


def predict(url: str, images: ImageServer, paths: Sequence[str]) -> float:
    tasks = [make_task(id=number, data={"captioning": images.url + path}) for number, path in enumerate(paths, 1)]
    body = {"tasks": tasks, "project": "1.1", "label_config": LABEL_CONFIG, "params": {}}
    return milliseconds(url + "/predict", body)


def milliseconds(url: str, body: Mapping[str, Any]) -> float:
    """Send a body over a new connection, as Label Studio does; return the time until the answer."""
    content, headers = json.dumps(body), {"Content-Type": "application/json", "Connection": "close"}
    began = time.perf_counter()
    requests.post(url, content, headers=headers, timeout=100).raise_for_status()
    return (time.perf_counter() - began) * 1000


def submission(number: int) -> dict[str, Any]:
    """Return a recorded submission, changed into a new annotation of a new task."""
    body: dict[str, Any] = load_payload("21_webhook_ANNOTATION_CREATED_corrected_edited")["body"]
    body["task"] |= {"id": number}
    body["annotation"] |= {"id": number, "unique_id": str(number)}
    return body


def new_pictures(images: ImageServer, photos: Path | None) -> Iterator[str]:
    """Yield paths of pictures that no backend has seen."""
    for photo in sorted(photos.glob("*.jpg")) if photos else []:
        images.pages[f"/{photo.name}"] = photo.read_bytes()
        yield f"/{photo.name}"
    for number in itertools.count():
        [(picture, _)] = draw_scenes(1, seed=number)
        path = f"/{number}.png"
        file = io.BytesIO()
        picture.save(file, "PNG")
        images.pages[path] = file.getvalue()
        yield path


if __name__ == "__main__":
    main()
