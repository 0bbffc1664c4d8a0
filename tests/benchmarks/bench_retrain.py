"""Seconds from the 20th correction to a new version that serves, and the memory of the worker meanwhile.

    python -m tests.benchmarks.bench_retrain [--corrections 20] [--bundle scenes]

A real Redis and a real worker process; everything is stored and triggered as the backend does it, features are there.
The corrections are of one systematic kind: what the captioner calls red, this annotator calls crimson, a word it has
never seen. So the last lines tell whether the suggestions for scenes that nobody corrected became better, too.
"""

import argparse
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from redis import Redis
from rq.job import JobStatus

from model.bundle import Bundle, load_bundle
from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.scenes.drawing import draw_scenes
from tests.factories import make_correction
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import Workplace
from worker.corrections import Correction
from worker.queues import retrain_when_due
from worker.settings import Settings

OLD_WORD, NEW_WORD = "red", "crimson"
UNSEEN = 150


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run took."""

    to_serving_s: float
    training_s: float
    worker_mb: float
    """Peak of the worker and its processes together, resident."""
    job_mb: float
    """Peak of the process of one job, resident."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis")
        server.start()
        workplace = make_workplace(server.url, arguments.bundle, arguments.corrections, Path(folder))
        corrections, unseen = make_corrections(workplace.bundle.captioner(), arguments.corrections)
        worker = WorkerProcess(Path(folder) / "worker.log", workplace.environment())
        try:
            measured = measure(workplace, worker, corrections)
            learned, kept = what_was_learned(workplace, unseen)
        finally:
            worker.kill()
            server.kill()
    report(arguments.corrections, measured, learned, kept, workplace)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_retrain", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--corrections", type=int, default=20, help="RETRAIN_AFTER, and as many corrections")
    parser.add_argument("--bundle", default="scenes", help="CAPTION_BUNDLE")
    return parser.parse_args(argv)


def make_workplace(redis_url: str, bundle: str, retrain_after: int, folder: Path) -> Workplace:
    settings = Settings(
        redis_url=redis_url,
        model_store=str(folder / "store"),
        caption_bundle=bundle,
        retrain_after=retrain_after,
        refresh_predictions=False,
    )
    return Workplace(Redis.from_url(redis_url, socket_timeout=None), settings, load_bundle(bundle), folder)


def make_corrections(
    captioner: Captioner, count: int
) -> tuple[list[tuple[Correction, Image.Image]], list[Image.Image]]:
    """Return corrected pictures of something red, and other pictures of something red."""
    pictures = [picture for picture, _ in draw_scenes(12 * (count + UNSEEN), seed=404, size=192)]
    reds: list[tuple[Image.Image, str]] = []
    for start in range(0, len(pictures), 50):
        if len(reds) >= count + UNSEEN:
            break
        batch = pictures[start : start + 50]
        captions = suggest(captioner, batch)
        reds += [(picture, text) for picture, text in zip(batch, captions, strict=True) if mentions(OLD_WORD, text)]
    corrections = [
        (
            make_correction(
                annotation_id=number,
                image_key=hashlib.sha256(picture.tobytes()).hexdigest(),
                proposed=text,
                caption=re.sub(rf"\b{OLD_WORD}\b", NEW_WORD, text),
            ),
            picture,
        )
        for number, (picture, text) in enumerate(reds[:count], start=1)
    ]
    return corrections, [picture for picture, _ in reds[count:]]


def measure(workplace: Workplace, worker: WorkerProcess, corrections: list[tuple[Correction, Image.Image]]) -> Measured:
    captioner = workplace.bundle.captioner()
    for correction, picture in corrections:
        workplace.features.put(str(correction.image_key), captioner.encode([picture])[0])
    for correction, _ in corrections[:-1]:
        workplace.inbox.store(correction)
        retrain_when_due(workplace.redis, workplace.settings, 1)

    started = time.monotonic()
    workplace.inbox.store(corrections[-1][0])
    job_id = retrain_when_due(workplace.redis, workplace.settings, 1)
    assert job_id is not None
    job, worker_bytes, job_bytes = workplace.job(job_id), 0, 0
    while workplace.registry.serving(1) == workplace.bundle.version:
        sizes = [process.memory_info().rss for process in worker.family()]
        worker_bytes, job_bytes = max(worker_bytes, sum(sizes)), max(job_bytes, *sizes)
        if job.get_status() in {JobStatus.FINISHED, JobStatus.FAILED}:
            break
        time.sleep(0.05)
    to_serving_s = time.monotonic() - started

    versions = workplace.registry.versions(1)
    if not versions or not versions[-1].published:
        raise SystemExit(f"nothing was published:\n{worker.log.read_text()}")
    version = versions[-1]
    return Measured(
        to_serving_s=to_serving_s,
        training_s=version.metrics["training"]["seconds"],
        worker_mb=worker_bytes / 1e6,
        job_mb=job_bytes / 1e6,
    )


def what_was_learned(workplace: Workplace, unseen: list[Image.Image]) -> tuple[float, float]:
    """Return the share of unseen pictures whose suggestion says the new word, and that only the word changed in."""
    before = workplace.bundle.captioner()
    after = workplace.registry.load(1, workplace.registry.serving(1), workplace.bundle)
    pairs = list(zip(suggest(before, unseen), suggest(after, unseen), strict=True))
    learned = sum(mentions(NEW_WORD, text) and not mentions(OLD_WORD, text) for _, text in pairs)
    kept = sum(text == re.sub(rf"\b{OLD_WORD}\b", NEW_WORD, old) for old, text in pairs)
    return learned / len(pairs), kept / len(pairs)


def suggest(captioner: Captioner, pictures: Sequence[Image.Image]) -> list[str]:
    return [found[0].text for found in captioner.caption(captioner.encode(pictures), DecodingOptions())]


def mentions(word: str, caption: str) -> bool:
    return re.search(rf"\b{word}\b", caption) is not None


def report(count: int, measured: Measured, learned: float, kept: float, workplace: Workplace) -> None:
    bundle: Bundle = workplace.bundle
    print(f"{'bundle':44} {bundle.version}, vocabulary {bundle.tokenizer.size}")
    print(f"{f'correction {count} to new version serving':44} {measured.to_serving_s:8.1f} s")
    print(f"{'  of that, fitting the decoder':44} {measured.training_s:8.1f} s")
    print(f"{'worker and its processes, peak resident':44} {measured.worker_mb:8.0f} MB")
    print(f"{'process of one job, peak resident':44} {measured.job_mb:8.0f} MB")
    print(f"{'unseen scenes suggested with the new word':44} {learned:8.0%}")
    print(f"{'unseen scenes where only that word changed':44} {kept:8.0%}")
    values = {
        "correction_to_serving_s": (measured.to_serving_s, 60.0, measured.to_serving_s <= 60.0),
        "unseen_suggested_right_share": (learned, 0.8, learned >= 0.8),
    }
    bars = {
        name: {"value": round(value, 3), "bar": bar, "holds": holds} for name, (value, bar, holds) in values.items()
    }
    print(json.dumps({"bars": bars}))


if __name__ == "__main__":
    main()
