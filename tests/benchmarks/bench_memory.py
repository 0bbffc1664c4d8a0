"""Measures what the memory of corrections costs the backend: time of a prediction, and memory of the process.

    python -m tests.benchmarks.bench_memory [--bundle photos] [--corrections 100000]

Redis and `captioner serve` are real. Three projects get predictions for the same pictures in turn: one without
corrections, one with 200, one with many. The memories of the last two are open, so they choose each suggestion.
"""

import argparse
import http.client
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from redis import Redis

from backend.demo.child_processes import Services, free_port, start_backend, start_redis
from backend.demo.scenes.drawing import draw_scenes
from model.bundle import load_bundle
from tests.benchmarks.bench_serving import LABEL_CONFIG, memory_mb, percentile, wait_for
from tests.factories import make_correction, make_task
from tests.image_server import ImageServer
from worker.feedback.layout import open_layout
from worker.feedback.record import Correction
from worker.feedback.script import key
from worker.feedback.totals import to_stored_json

WITHOUT, FEW, MANY = 1, 2, 3
"""Projects."""
KINDS = 20
"""Pictures to predict for; each correction is of a picture much like one of them."""
ROUNDS = 40
DECODED = 200
NOISE = 0.3


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    bundle = load_bundle(arguments.bundle)
    with tempfile.TemporaryDirectory() as folder, ImageServer() as images, Services(Path(folder) / "logs") as services:
        pictures = [picture for picture, _ in draw_scenes(KINDS, seed=7_000_000)]
        for number, picture in enumerate(pictures):
            file = io.BytesIO()
            picture.save(file, "PNG")
            images.pages[f"/{number}.png"] = file.getvalue()
        vectors = bundle.space.vectors(bundle.captioner().encode(pictures))
        redis_url = start_redis(services, Path(folder) / "redis").url
        with Redis.from_url(redis_url) as redis:
            open_layout(redis)
            for project_id, count in ((FEW, 200), (MANY, arguments.corrections)):
                fill(redis, project_id, count, vectors.astype(np.float32), bundle.space.name, bundle.version)
        settings = {
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "REDIS_URL": redis_url,
            "MODEL_STORE": str(Path(folder) / "store"),
            "CAPTION_BUNDLE": arguments.bundle,
            "LABEL_STUDIO_URL": images.url,
            "LABEL_STUDIO_API_KEY": "f" * 40,
            "RECONCILE_EVERY_S": "0",
        }
        backend = start_backend(services, settings)

        def predict(project_id: int, count: int = 1, first: int = 0) -> tuple[float, str]:
            """Return milliseconds, and the version that the answer names."""
            tasks = [
                make_task(id=10**6 + number, data={"captioning": f"{images.url}/{(first + number) % KINDS}.png"})
                for number in range(count)
            ]
            body = {"tasks": tasks, "project": f"{project_id}.1", "label_config": LABEL_CONFIG, "params": {}}
            began = time.perf_counter()
            connection = http.client.HTTPConnection(urlsplit(backend.url).netloc, timeout=100)
            connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
            results: list[Any] = json.loads(connection.getresponse().read())["results"]
            connection.close()
            return (time.perf_counter() - began) * 1000, str(results[0]["model_version"])

        for number in range(KINDS):
            predict(WITHOUT, first=number)
        before_mb = memory_mb(backend)
        began = time.perf_counter()
        wait_for(lambda: "+m" in predict(MANY)[1], "the memory to open")
        load_s = time.perf_counter() - began
        wait_for(lambda: "+m" in predict(FEW)[1], "the small memory to open")
        added_mb = memory_mb(backend) - before_mb
        took: dict[tuple[int, int], list[float]] = {}
        for number in range(ROUNDS):
            for project_id in (WITHOUT, FEW, MANY):
                for count in (1, 25):
                    took.setdefault((project_id, count), []).append(predict(project_id, count, number)[0])
    report(took, added_mb, load_s, arguments.corrections)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_memory", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--bundle", default="photos", help="CAPTION_BUNDLE (%(default)s)")
    parser.add_argument("--corrections", type=int, default=100_000, help="of the large project (%(default)s)")
    return parser.parse_args(argv)


def fill(redis: Redis, project_id: int, count: int, kinds: Any, space: str, version: str) -> None:
    """Write corrections into Redis as webhooks would, but all at once, with the vectors of their images."""
    draw = np.random.default_rng(project_id)
    corrections = store_records(redis, project_id, count)
    for start in range(0, count, 5000):
        with redis.pipeline(transaction=False) as pipeline:
            for number, correction in enumerate(corrections[start : start + 5000], start + 1):
                kind = number % KINDS
                vector = kinds[kind] + NOISE * draw.standard_normal(kinds.shape[1]) / kinds.shape[1] ** 0.5
                vector = (vector / np.linalg.norm(vector)).astype(np.float16)
                pipeline.hset(f"{key('vectors', project_id)}:{space}", str(correction.image_key), vector.tobytes())
                decoded = f"{key('decoded', project_id)}:{version}"
                pipeline.hset(decoded, str(correction.image_key), json.dumps(["people on rocks"]))
            pipeline.execute()


def store_records(redis: Redis, project_id: int, count: int) -> list[Correction]:
    """Write corrections of images of KINDS kinds, each with its own image."""
    corrections = [
        make_correction(
            project_id=project_id,
            annotation_id=number,
            # The first digits would hold an image out.
            image_key=f"{1:08x}{number:056x}",
            caption=f"kind {number % KINDS} of picture with {number % 7} things and word{number % 997}",
        )
        for number in range(1, count + 1)
    ]
    for start in range(0, count, 5000):
        with redis.pipeline(transaction=False) as pipeline:
            for number, correction in enumerate(corrections[start : start + 5000], start + 1):
                pipeline.hset(key("feedback", project_id), correction.name, to_stored_json(correction))
                pipeline.zadd(key("times", project_id), {correction.name: correction.microseconds + number})
                pipeline.zadd(key("latest", project_id), {correction.name: number})
            pipeline.execute()
    redis.hset(key("changes", project_id), "generation", count)
    return corrections


def report(took: dict[tuple[int, int], list[float]], added_mb: float, load_s: float, corrections: int) -> None:
    names = {WITHOUT: "no corrections", FEW: "200 corrections", MANY: f"{corrections} corrections"}
    print(f"{'predict, known pictures, milliseconds':40} {'p50':>8} {'p95':>8}")
    for (project_id, count), values in sorted(took.items()):
        name = f"{names[project_id]}, {count} task{'s' if count > 1 else ''}"
        print(f"{name:40} {statistics.median(values):8.1f} {percentile(values, 0.95):8.1f}")
    print(f"the backend holds {added_mb:.0f} MB more; it had read the large memory after {load_s:.1f} s")
    ratio = max(statistics.median(took[FEW, count]) / statistics.median(took[WITHOUT, count]) for count in (1, 25))
    later_ms = percentile(took[MANY, 1], 0.95) - percentile(took[WITHOUT, 1], 0.95)
    bars = {
        "slower_x": {"value": round(ratio, 2), "bar": 1.5, "holds": ratio <= 1.5},
        "p95_later_ms": {"value": round(later_ms, 1), "bar": 40, "holds": later_ms <= 40},
        "added_mb": {"value": round(added_mb), "bar": 150, "holds": added_mb <= 150},
    }
    print(json.dumps({"bars": bars}))


if __name__ == "__main__":
    main()
