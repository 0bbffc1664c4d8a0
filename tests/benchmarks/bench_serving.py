"""Measures the backend's answering times, alone and during a training on the same machine, and its memory.

    python -m tests.benchmarks.bench_serving [--bundle scenes] [--webhooks 1000] [--photos DIR] [--many 1000]

With `--many` it also measures one call with so many tasks, eight clients, and the memory after 10,000 predictions.

Redis (with an append-only file), `captioner serve` and `captioner worker` are real. Images come from a web server in
this process. Every webhook opens a new connection, as with Label Studio.
"""

import argparse
import http.client
import io
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from backend.demo.child_processes import (
    Service,
    Services,
    captioner_command,
    free_port,
    our_environment,
    start_backend,
    start_backend_and_worker,
    start_redis,
)
from backend.demo.scenes.drawing import draw_scenes
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.payloads import load_payload
from worker.queue.job_state import QUEUES, queue

LABEL_CONFIG = load_payload("02_setup")["body"]["schema"]
TRAINED_PROJECT, MEASURED_PROJECT, NOBODYS_PROJECT = 1, 2, 3
CORRECTIONS = 60
RETRAIN_BUDGET_S = 60
ROUNDS = 15
DEADLINE_S = 240
CLIENTS = 8
STARTS = 3
PREDICTIONS = 10_000
"""After which the memory is measured."""
NEW_IMAGE = "predict 1 task, new image"
BARS = {
    "webhook_p99_ms": 50.0,
    "setup_ms": 100.0,
    "health_ms": 20.0,
    "ready_s": 2.0,
    "caption_a_file_s": 1.5,
    "backend_mb": 350.0,
    "new_image_p95_ms": 90.0,
    "known_image_p95_ms": 40.0,
    "new_image_p95_training_x": 1.5,
    "many_new_s": 20.0,
    "many_known_s": 6.0,
    "many_peak_mb": 600.0,
    "backend_mb_after_10000": 500.0,
    "job_begins_s": 0.5,
    "clients_share_of_offline": 0.9,
}
"""With the bundle `photos`, 1,000 tasks of one call and two idle cores."""
AT_LEAST = ("clients_share_of_offline",)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder, ImageServer() as images, Services(Path(folder) / "logs") as services:
        print(f"bundle {arguments.bundle}, {arguments.webhooks} webhooks, {ROUNDS} rounds of each prediction")
        bench = Bench(services, images, arguments, Path(folder))
        report(bench.measure(arguments.webhooks), bench)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_serving", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--bundle", default="scenes", help="CAPTION_BUNDLE; its training must take a while")
    parser.add_argument("--photos", type=Path, help="JPEG files to caption, beside drawn pictures")
    parser.add_argument("--many", type=int, default=0, help="tasks of one long call, with new and with known images")
    parser.add_argument("--webhooks", type=int, default=1000, help="how many to send while the training runs")
    return parser.parse_args(argv)


class Bench:
    """One backend and one worker, and the requests they get."""

    def __init__(self, services: Services, images: ImageServer, arguments: argparse.Namespace, folder: Path) -> None:
        self.images = images
        self.redis_url = start_redis(services, folder / "redis").url
        settings = {
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "REDIS_URL": self.redis_url,
            "MODEL_STORE": str(folder / "store"),
            "CAPTION_BUNDLE": arguments.bundle,
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "RETRAIN_AFTER": "100000",
            "RETRAIN_IDLE_S": "0",
            "RETRAIN_BUDGET_S": str(RETRAIN_BUDGET_S),
            "REFRESH_PREDICTIONS": "false",
            "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
        }
        self.ready_s = []
        for _ in range(STARTS):
            began = time.perf_counter()
            backend = start_backend(services, settings)
            self.ready_s.append(time.perf_counter() - began)
            services.stop(backend)
        self.backend, self.worker = start_backend_and_worker(services, settings)
        self.features_reused = 0.0
        """Share of the corrected images whose features were already stored when the training began."""
        self.many = arguments.many
        self.predicted = 0
        """Number of predictions so far."""
        self._numbers = iter(range(1, 1_000_000))
        self._pictures = self._draw(sorted(arguments.photos.glob("*.jpg")) if arguments.photos else [])
        self.job_begins_s = statistics.median(self._job_begins() for _ in range(STARTS))
        self.caption_s = self._caption_a_file(settings, folder / "picture.jpg")
        self.memory_at_start = self.memory()

    def measure(self, webhooks: int) -> dict[str, list[float]]:
        """Return the times of each kind of request, in milliseconds."""
        took = {
            "GET /health": [self._ms("GET", "/health") for _ in range(200)],
            "POST /setup": [self._ms("POST", "/setup", load_payload("02_setup")["body"]) for _ in range(200)],
            "webhook, alone": [self._ms("POST", "/webhook", self._event()) for _ in range(webhooks // 2)],
            NEW_IMAGE: self._predictions(1, new=True, rounds=10 * ROUNDS),
            "predict 1 task, known image": self._predictions(1, new=False, rounds=10 * ROUNDS),
            "predict 25 tasks, new images": self._predictions(25, new=True),
            "predict 25 tasks, known images": self._predictions(25, new=False),
        }
        if self.many:
            with self._watched_memory() as peak:
                took[f"predict {self.many} tasks, new images"] = [self._predict(self.many, new=True)]
                took[f"predict {self.many} tasks, known images"] = [self._predict(self.many, new=False)]
            self.peak_mb = max(peak)
            took[f"{CLIENTS} clients, 1 task each, new images"] = self._clients()
            while self.predicted < PREDICTIONS:
                self._predict(self.many, new=False)
            self.memory_after = self.memory()["backend"]
        with self._training() as is_running:
            took["webhook, while training"] = self._while(
                is_running, webhooks, lambda: self._ms("POST", "/webhook", self._event())
            )
            took[f"{NEW_IMAGE}, while training"] = self._while(
                is_running, 10 * ROUNDS, lambda: self._predict(1, new=True)
            )
        return took

    def memory(self) -> dict[str, float]:
        """Return the memory of each service with its processes, in MB."""
        return {service.name: memory_mb(service) for service in (self.backend, self.worker)}

    def _job_begins(self) -> float:
        """Return the seconds from the request of a job until a worker runs its function."""
        with Redis.from_url(self.redis_url) as redis:
            requested = time.time()
            job = queue(redis, QUEUES[1]).enqueue("worker.idle.retrain_if_idle", NOBODYS_PROJECT)
            wait_for(lambda: job.get_status(refresh=True) == JobStatus.FINISHED, "a job that does nothing")
            # RQ notes the beginning just before it imports the function, which needs no further imports here.
            return (job.started_at or datetime.now(UTC)).timestamp() - requested

    @contextmanager
    def _watched_memory(self) -> Iterator[list[float]]:
        """Yield the memory of the backend in MB, measured five times a second."""
        measured = [memory_mb(self.backend)]
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.2):
                measured.append(memory_mb(self.backend))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield measured
        finally:
            is_over.set()
            watching.join()

    def _clients(self) -> list[float]:
        """Let several clients ask for captions of new images at the same time; return their times."""
        pictures = [[next(self._pictures) for _ in range(ROUNDS)] for _ in range(CLIENTS)]

        def ask(of_client: Sequence[str]) -> list[float]:
            return [self._ms("POST", "/predict", self._prediction(MEASURED_PROJECT, [path])) for path in of_client]

        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            took = [ms for of_client in clients.map(ask, pictures) for ms in of_client]
        self.clients_per_s = len(took) / (time.perf_counter() - began)
        return took

    def _caption_a_file(self, settings: Mapping[str, str], file: Path) -> float:
        """Return how long `captioner caption` takes for one picture, in seconds."""
        page = self.images.pages[next(self._pictures)]
        file.write_bytes(page if isinstance(page, bytes) else b"")
        command = [*captioner_command("caption"), str(file)]
        took = []
        for _ in range(STARTS):
            began = time.perf_counter()
            subprocess.run(command, env=our_environment(settings), check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        return min(took)

    def _predictions(self, tasks: int, *, new: bool, rounds: int = ROUNDS) -> list[float]:
        self._predict(tasks, new=new)
        return [self._predict(tasks, new=new) for _ in range(rounds)]

    def _predict(self, count: int, *, new: bool) -> float:
        """Request captions of `count` tasks; return milliseconds."""
        self.predicted += count
        pictures = [next(self._pictures) for _ in range(count)] if new else list(self.images.pages)[:count]
        return self._ms("POST", "/predict", self._prediction(MEASURED_PROJECT, pictures))

    def _prediction(self, project_id: int, pictures: Sequence[str]) -> dict[str, Any]:
        tasks = [
            make_task(id=next(self._numbers), data={"captioning": self.images.url + picture}) for picture in pictures
        ]
        return {"tasks": tasks, "project": f"{project_id}.1", "label_config": LABEL_CONFIG, "params": {}}

    def _event(self, project_id: int = MEASURED_PROJECT, caption: str = "", task: Any = None) -> dict[str, Any]:
        """Return a recorded submission, changed into a new annotation of a new task."""
        body: dict[str, Any] = load_payload("21_webhook_ANNOTATION_CREATED_corrected_edited")["body"]
        number = next(self._numbers)
        body["project"]["id"] = project_id
        body["task"] |= task or {"id": number}
        body["annotation"] |= {"id": number, "unique_id": str(number)}
        if caption:
            body["annotation"]["result"][0]["value"]["text"] = [caption]
        return body

    @contextmanager
    def _training(self) -> Iterator[Callable[[], bool]]:
        """Let the worker train on another project; yield a function that returns True while the training runs."""
        request = self._prediction(TRAINED_PROJECT, [next(self._pictures) for _ in range(CORRECTIONS)])
        results = self._reply("POST", "/predict", request)["results"]
        for task, entry in zip(request["tasks"], results, strict=True):
            caption = entry["result"][0]["value"]["text"][0] + " in the bench"
            self._reply("POST", "/webhook", self._event(TRAINED_PROJECT, caption, task))
        job_id = self._reply("POST", "/train", {"project": TRAINED_PROJECT})["job"]
        with Redis.from_url(self.redis_url) as redis:
            job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
            wait_for(lambda: phase(job) == "training" or job.is_finished or job.is_failed, "the training to begin")
            if phase(job) != "training":
                raise SystemExit(f"the training ended before requests were measured: {job.get_status()}")
            collected = job.fetch_dependencies()[0].return_value() or {}
            self.features_reused = collected["known"] / (collected["known"] + collected["made"])
            yield lambda: phase(job) == "training"

    def _while(self, is_running: Callable[[], bool], count: int, ask: Callable[[], float]) -> list[float]:
        """Send up to `count` requests while the training runs; return their times."""
        took: list[float] = []
        while len(took) < count and (len(took) % 20 or is_running()):
            took.append(ask())
        if len(took) < count:
            print(f"the training ended after {len(took)} of {count} requests")
        return took

    def _ms(self, method: str, path: str, body: Any = None) -> float:
        content = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self._send(method, path, content)
        return (time.perf_counter() - began) * 1000

    def _reply(self, method: str, path: str, body: Any) -> Any:
        return json.loads(self._send(method, path, json.dumps(body).encode()))

    def _send(self, method: str, path: str, content: bytes | None) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.backend.url).netloc, timeout=100)
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        response = connection.getresponse()
        reply = response.read()
        connection.close()
        if response.status >= 300:
            raise SystemExit(f"{path} answered {response.status}: {reply[:500]!r}")
        return reply

    def _draw(self, photos: Sequence[Path]) -> Iterator[str]:
        """Yield paths of new pictures: first the photos, then drawn ones."""
        for photo in photos:
            self.images.pages[f"/{photo.name}"] = photo.read_bytes()
            yield f"/{photo.name}"
        seed = 0
        while True:
            seed += 1
            for number, (picture, _) in enumerate(draw_scenes(50, seed=1_000_000 + seed)):
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=90)
                path = f"/{seed}-{number}.jpg"
                self.images.pages[path] = file.getvalue()
                yield path


def phase(job: Job) -> str | None:
    name = job.get_meta(refresh=True).get("phase")
    return None if name is None else str(name)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE_S} s for {what}")
        time.sleep(0.1)


def memory_mb(service: Service) -> float:
    """Return the memory of a service's processes. Shared memory counts once if the system can measure it."""
    own = psutil.Process(service.process.pid)
    memories = [process.memory_full_info() for process in [own, *own.children(recursive=True)]]
    return sum(getattr(memory, "pss", memory.rss) for memory in memories) / 1e6


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(took: dict[str, list[float]], bench: Bench) -> None:
    print(f"\n{'milliseconds':44} {'n':>5} {'p50':>8} {'p95':>8} {'p99':>8} {'most':>8}")
    for name, values in took.items():
        shares = [percentile(values, share) for share in (0.95, 0.99)]
        row = " ".join(f"{value:8.1f}" for value in [statistics.median(values), *shares, max(values)])
        print(f"{name:44} {len(values):5} {row}")
    for name, held in bench.memory().items():
        print(f"memory of the {name} with its processes: {bench.memory_at_start[name]:.0f} MB, now {held:.0f} MB")
    print(f"ready after {', '.join(f'{seconds:.2f}' for seconds in bench.ready_s)} s")
    measured = {
        "webhook_p99_ms": percentile(took["webhook, while training"], 0.99),
        "setup_ms": percentile(took["POST /setup"], 0.99),
        "health_ms": percentile(took["GET /health"], 0.99),
        "ready_s": min(bench.ready_s),
        "caption_a_file_s": bench.caption_s,
        "job_begins_s": bench.job_begins_s,
        "backend_mb": bench.memory_at_start["backend"],
        "new_image_p95_ms": percentile(took[NEW_IMAGE], 0.95),
        "known_image_p95_ms": percentile(took["predict 1 task, known image"], 0.95),
        "new_image_p95_training_x": percentile(took[f"{NEW_IMAGE}, while training"], 0.95)
        / percentile(took[NEW_IMAGE], 0.95),
    }
    if bench.many:
        new_s, known_s = (took[f"predict {bench.many} tasks, {kind} images"][0] / 1000 for kind in ("new", "known"))
        measured |= {
            "many_new_s": new_s,
            "many_known_s": known_s,
            "many_peak_mb": bench.peak_mb,
            "backend_mb_after_10000": bench.memory_after,
            "clients_share_of_offline": bench.clients_per_s / (bench.many / new_s),
        }
    bars: dict[str, Any] = {
        name: {
            "value": round(value, 2),
            "bar": BARS[name],
            "holds": value >= BARS[name] if name in AT_LEAST else value <= BARS[name],
        }
        for name, value in measured.items()
    }
    reused = bench.features_reused
    bars["features_reused"] = {"value": reused, "bar": 0.99, "holds": reused >= 0.99}
    print(json.dumps({"bars": bars}))


if __name__ == "__main__":
    main()
