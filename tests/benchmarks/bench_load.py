"""Measures the backend under load: a crowd of annotators beside a training, a rush of calls, a very long call.

    python -m tests.benchmarks.bench_load --photos DIR [--only crowd rush long steady] [--seconds 300]

Redis, `captioner serve` and `captioner worker` are real, with the bundle `photos`. Each request opens a connection, as
with Label Studio. Images come from a web server in this process. Bars are those of the issue that asked for them.
"""

import argparse
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from backend.demo.child_processes import Service, Services, free_port, start_backend_and_worker, start_redis
from tests.benchmarks.bench_serving import LABEL_CONFIG, memory_mb, percentile
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.payloads import load_payload

PARTS = ("crowd", "rush", "long", "steady")
PROJECT, TRAINED_PROJECT = 1, 2
ANNOTATORS, SUBMIT_EVERY_S, PREDICTIONS_PER_S = 50, 10, 5
RUSH_CALLS, RUSH_TASKS = 100, 50
LONG_TASKS = 10_000
STEADY_PREDICTIONS, STEADY_WEBHOOKS, WARM = 20_000, 5_000, 2_000
LABEL_STUDIO_WAITS_S = 100
TRAINING_CORRECTIONS = 60


@dataclass
class Answers:
    """Answers to one kind of request."""

    ms: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def line(self, name: str) -> str:
        others = {status: self.statuses.count(status) for status in set(self.statuses) - {200, 201}}
        times = " ".join(f"{percentile(self.ms, share):8.1f}" for share in (0.5, 0.95, 0.99)) if self.ms else ""
        return f"{name:36} {len(self.ms):6} {times} {max(self.ms, default=0.0):8.1f} {others or ''}"


class Bench:
    """A backend, a worker, and requests to them."""

    def __init__(self, services: Services, images: ImageServer, photos: Sequence[Path], folder: Path) -> None:
        settings = {
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "REDIS_URL": start_redis(services, folder / "redis").url,
            "MODEL_STORE": str(folder / "store"),
            "CAPTION_BUNDLE": "photos",
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
            "RETRAIN_AFTER": "100000",
            "RETRAIN_IDLE_S": "0",
            "RETRAIN_BUDGET_S": "300",
            "REFRESH_PREDICTIONS": "false",
        }
        self.images, self.bars = images, dict[str, Any]()
        self.backend, self.worker = start_backend_and_worker(services, settings)
        self._photos = [photo.read_bytes() for photo in photos]
        self._numbers = count(1)
        self._pictures = count()
        self._lock = threading.Lock()

    def new_picture(self) -> str:
        """Return the path of a picture that the backend has not seen: each has other bytes behind its end."""
        with self._lock:
            number = next(self._pictures)
        path = f"/{number}.jpg"
        self.images.pages[path] = self._photos[number % len(self._photos)] + str(number).encode()
        return path

    def predict(self, pictures: Sequence[str], project_id: int = PROJECT) -> tuple[int, Any, float]:
        tasks = [make_task(id=next(self._numbers), data={"captioning": self.images.url + path}) for path in pictures]
        body = {"tasks": tasks, "project": f"{project_id}.1", "label_config": LABEL_CONFIG, "params": {}}
        return self.send("/predict", body)

    def submit(self, project_id: int = PROJECT, task: Any = None, caption: str = "") -> tuple[int, Any, float]:
        body: dict[str, Any] = load_payload("21_webhook_ANNOTATION_CREATED_corrected_edited")["body"]
        number = next(self._numbers)
        body["project"]["id"] = project_id
        body["task"] |= task or {"id": number}
        body["annotation"] |= {"id": number, "unique_id": str(number)}
        if caption:
            body["annotation"]["result"][0]["value"]["text"] = [caption]
        return self.send("/webhook", body)

    def health(self) -> tuple[int, Any, float]:
        return self.send("/health", None)

    def send(self, path: str, body: Any) -> tuple[int, Any, float]:
        """Return status, content and milliseconds of an answer; status 0 where none came."""
        began = time.perf_counter()
        try:
            connection = http.client.HTTPConnection(urlsplit(self.backend.url).netloc, timeout=LABEL_STUDIO_WAITS_S)
            method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            reply = connection.getresponse()
            status, text = reply.status, reply.read()
            connection.close()
        except OSError:
            return 0, None, (time.perf_counter() - began) * 1000
        return status, json.loads(text), (time.perf_counter() - began) * 1000

    def bar(self, name: str, value: float, most: float) -> None:
        self.bars[name] = {"value": round(value, 2), "bar": most, "holds": value <= most}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_load", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", type=Path, required=True, help="directory of JPEG files to caption")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=int, default=300, help="duration of the crowd (%(default)s)")
    arguments = parser.parse_args(argv)
    photos = sorted(arguments.photos.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder, ImageServer() as images, Services(Path(folder) / "logs") as services:
        bench = Bench(services, images, photos, Path(folder))
        print(f"\n{'milliseconds':36} {'n':>6} {'p50':>8} {'p95':>8} {'p99':>8} {'most':>8}  other statuses")
        for part in arguments.only:
            {"crowd": crowd, "rush": rush, "long": long, "steady": steady}[part](bench, arguments.seconds)
    print(json.dumps({"bars": bench.bars}))


def crowd(bench: Bench, seconds: int) -> None:
    """Annotators submit and open tasks while the worker trains on another project."""
    idle = Answers()
    for _ in range(100):
        keep(idle, bench.predict([bench.new_picture()]))
    print(idle.line("predict, alone"))
    with training(bench), watched_memory(bench.backend) as memory:
        submitted, predicted = Answers(), Answers()
        run = [
            (ANNOTATORS / SUBMIT_EVERY_S, lambda: keep(submitted, bench.submit())),
            (PREDICTIONS_PER_S, lambda: keep(predicted, bench.predict([bench.new_picture()]))),
        ]
        together(seconds, run)
    print(submitted.line("webhook, with a crowd"))
    print(predicted.line("predict, with a crowd"))
    bench.bar("crowd_failed", sum(status not in {200, 201} for status in submitted.statuses + predicted.statuses), 0)
    bench.bar("crowd_webhook_p99_ms", percentile(submitted.ms, 0.99), 100)
    bench.bar("crowd_webhook_most_ms", max(submitted.ms), 1000)
    bench.bar("crowd_predict_p95_x_idle", percentile(predicted.ms, 0.95) / percentile(idle.ms, 0.95), 2)
    bench.bar("crowd_backend_mb", max(memory), 1000)


def rush(bench: Bench, _seconds: int) -> None:
    """Many calls with many tasks come at once."""
    answers, health = Answers(), Answers()
    pictures = [[bench.new_picture() for _ in range(RUSH_TASKS)] for _ in range(RUSH_CALLS)]
    with ThreadPoolExecutor(RUSH_CALLS) as threads:
        calls: list[Future[tuple[int, Any, float]]] = [threads.submit(bench.predict, paths) for paths in pictures]
        while not all(call.done() for call in calls):
            keep(health, bench.health())
            time.sleep(0.02)
    captioned = 0
    for call in calls:
        keep(answers, call.result())
        status, reply, _ = call.result()
        captioned += sum("result" in entry for entry in reply["results"]) if status == 200 else 0
    print(answers.line(f"{RUSH_CALLS} calls of {RUSH_TASKS} tasks"))
    print(health.line("health meanwhile"))
    print(f"{captioned} of {RUSH_CALLS * RUSH_TASKS} tasks captioned")
    bench.bar("rush_failed", sum(status not in {200, 503} for status in answers.statuses), 0)
    bench.bar("rush_most_s", max(answers.ms) / 1000, 100)
    bench.bar("rush_health_p99_ms", percentile(health.ms, 0.99), 50)


def long(bench: Bench, _seconds: int) -> None:
    """One call with very many tasks."""
    pictures = [bench.new_picture() for _ in range(LONG_TASKS)]
    with watched_memory(bench.backend) as memory:
        status, reply, ms = bench.predict(pictures)
    captioned = sum("result" in entry for entry in reply["results"]) if status == 200 else 0
    print(f"one call of {LONG_TASKS} tasks: status {status} after {ms / 1000:.1f} s, {captioned} captions")
    bench.bar("long_s", ms / 1000, LABEL_STUDIO_WAITS_S)
    bench.bar("long_backend_mb", max(memory), 1000)


def steady(bench: Bench, _seconds: int) -> None:
    """Many predictions and webhooks, one after the other: does memory stay flat?"""
    pictures = [bench.new_picture() for _ in range(200)]
    for number in tqdm(range(STEADY_PREDICTIONS // 10), desc="steady", leave=False):
        bench.predict(pictures[number % 20 * 10 : number % 20 * 10 + 10])
        if number % (STEADY_PREDICTIONS // 10 // (STEADY_WEBHOOKS // 10)) == 0:
            for _ in range(10):
                bench.submit()
        if number == WARM // 10:
            warm = memory_mb(bench.backend)
    grown = memory_mb(bench.backend) - warm
    print(f"memory after {WARM} predictions {warm:.0f} MB, after {STEADY_PREDICTIONS} {warm + grown:.0f} MB")
    bench.bar("steady_grown_mb", grown, 25)


def keep(answers: Answers, answer: tuple[int, Any, float]) -> None:
    status, _, ms = answer
    answers.ms.append(ms)
    answers.statuses.append(status)


def together(seconds: int, rates: Sequence[tuple[float, Callable[[], None]]]) -> None:
    """Do each action so many times a second, however long the answers take."""
    with ThreadPoolExecutor(ANNOTATORS * 2) as threads:
        began, done = time.perf_counter(), [0] * len(rates)
        with tqdm(total=seconds, desc="crowd", unit="s", leave=False, mininterval=5) as progress:
            while (passed := time.perf_counter() - began) < seconds:
                for place, (rate, action) in enumerate(rates):
                    if done[place] < passed * rate:
                        threads.submit(action)
                        done[place] += 1
                progress.update(int(passed) - progress.n)
                time.sleep(0.01)


@contextmanager
def training(bench: Bench) -> Iterator[None]:
    """Let the worker train on another project meanwhile, again and again."""
    pictures = [bench.new_picture() for _ in range(TRAINING_CORRECTIONS)]
    _, reply, _ = bench.predict(pictures, TRAINED_PROJECT)
    for number, (path, entry) in enumerate(zip(pictures, reply["results"], strict=True), 10**6):
        task = make_task(id=number, data={"captioning": bench.images.url + path})
        bench.submit(TRAINED_PROJECT, task, entry["result"][0]["value"]["text"][0] + " in the bench")
    is_over = threading.Event()

    def train() -> None:
        while not is_over.is_set():
            bench.send("/train", {"project": TRAINED_PROJECT})
            is_over.wait(5)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def watched_memory(service: Service) -> Iterator[list[float]]:
    """Yield the memory of a service in MB, measured twice a second."""
    measured, is_over = [memory_mb(service)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            measured.append(memory_mb(service))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield measured
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    main()
