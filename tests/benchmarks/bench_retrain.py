"""Seconds from the 20th correction to a new version that serves, and the memory of the worker meanwhile.

    python -m tests.benchmarks.bench_retrain [--corrections 20] [--bundle scenes]

A real Redis and a real worker process; everything is stored and triggered as the backend does it, features are there.
Each project has annotators of one habit: a word that the captioner has never seen, words in front of every caption, or
words left out at its end. So the last columns tell whether suggestions for scenes that nobody corrected follow it too,
and whether their facts are as right as they were.
"""

import argparse
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from redis import Redis
from rq.job import JobStatus

from model.bundle import load_bundle
from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.scenes.drawing import draw_scenes
from model.scenes.evaluation import best_captions, report_facts
from model.scenes.scene import Scene
from tests.factories import make_correction
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import Workplace
from worker.queues import retrain_when_due
from worker.settings import Settings

UNSEEN = 150
COLUMNS = "habit                         to serving  fitting  worker MB job MB  follows  right before, after"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What annotators make of every caption."""

    name: str
    restate: Callable[[str], str]
    undo: Callable[[str], str]
    """Back to words in which facts can be checked."""


HABITS = (
    Habit(
        name="red is crimson",
        restate=lambda caption: re.sub(r"\bred\b", "crimson", caption),
        undo=lambda caption: re.sub(r"\bcrimson\b", "red", caption),
    ),
    Habit(
        name='begins with "a picture of"',
        restate=lambda caption: f"a picture of {caption}",
        undo=lambda caption: caption.removeprefix("a picture of "),
    ),
    Habit(
        name="no background",
        restate=lambda caption: re.sub(r" on a [a-z ]*background$", "", caption),
        undo=lambda caption: caption,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one habit took, and what was learned of it, on unseen scenes that it concerns."""

    habit: str
    to_serving_s: float
    training_s: float
    worker_mb: float
    """Peak of the worker and its processes together, resident."""
    job_mb: float
    """Peak of the process of one job, resident."""
    follows: float
    """Share of captions that the habit has nothing to change in any more."""
    right_before: float
    """Share of captions without a wrong fact."""
    right: float
    edits: list[str]
    """What the version says of the habit."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis")
        server.start()
        workplace = make_workplace(server.url, arguments.bundle, arguments.corrections, Path(folder))
        worker = WorkerProcess(Path(folder) / "worker.log", workplace.environment())
        try:
            print(f"{workplace.bundle.version}, {arguments.corrections} corrections of each habit\n{COLUMNS}")
            for project_id, habit in enumerate(HABITS, start=1):
                rows.append(measure(workplace, worker, project_id, habit, arguments.corrections))
                print(line(rows[-1]), flush=True)
        finally:
            worker.kill()
            server.kill()
    for row in rows:
        print(f"{row.habit}: {'; '.join(row.edits) or 'nothing systematic found'}")
    print(json.dumps({"bars": bars(rows)}))


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


def concerned_scenes(captioner: Captioner, habit: Habit, count: int) -> list[tuple[Image.Image, Scene, str]]:
    """Return scenes whose suggestion the habit would change, with their pictures and that suggestion."""
    found: list[tuple[Image.Image, Scene, str]] = []
    pictured = draw_scenes(8 * count, seed=404, size=192)
    for start in range(0, len(pictured), 50):
        batch = pictured[start : start + 50]
        captions = best_captions(captioner, [picture for picture, _ in batch], DecodingOptions())
        found += [(*pair, text) for pair, text in zip(batch, captions, strict=True) if habit.restate(text) != text]
        if len(found) >= count:
            return found[:count]
    raise SystemExit(f"{habit.name!r} concerns {len(found)} scenes only, {count} are needed")


def measure(workplace: Workplace, worker: WorkerProcess, project_id: int, habit: Habit, count: int) -> Measured:
    captioner = workplace.bundle.captioner()
    scenes = concerned_scenes(captioner, habit, count + UNSEEN)
    for number, (picture, _, text) in enumerate(scenes[:count], start=1):
        if number == count:
            started = time.monotonic()
        correction = make_correction(
            project_id=project_id,
            annotation_id=number,
            image_key=hashlib.sha256(picture.tobytes()).hexdigest(),
            proposed=text,
            caption=habit.restate(text),
            model_version=workplace.bundle.version,
        )
        workplace.features.put(str(correction.image_key), captioner.encode([picture])[0])
        workplace.inbox.store(correction)
        job_id = retrain_when_due(workplace.redis, workplace.settings, project_id)
    assert job_id is not None
    worker_bytes, job_bytes = watch(workplace, worker, project_id, job_id)
    to_serving_s = time.monotonic() - started

    versions = workplace.registry.versions(project_id)
    if not versions or not versions[-1].published:
        raise SystemExit(f"nothing was published:\n{worker.log.read_text()}")
    version = versions[-1]
    after = workplace.registry.load(project_id, version.name, workplace.bundle)
    pictures, unseen, before = zip(*scenes[count:], strict=True)
    captions = best_captions(after, pictures, DecodingOptions())
    return Measured(
        habit=habit.name,
        to_serving_s=to_serving_s,
        training_s=version.metrics["training"]["seconds"],
        worker_mb=worker_bytes / 1e6,
        job_mb=job_bytes / 1e6,
        follows=sum(habit.restate(habit.undo(text)) == text for text in captions) / UNSEEN,
        right_before=report_facts(before, unseen).correct,
        right=report_facts([habit.undo(text) for text in captions], unseen).correct,
        edits=version.metrics["systematic_edits"],
    )


def watch(workplace: Workplace, worker: WorkerProcess, project_id: int, job_id: str) -> tuple[int, int]:
    """Wait until a new version serves; return the most bytes of the worker's family and of one process of it."""
    job, worker_bytes, job_bytes = workplace.job(job_id), 0, 0
    while workplace.registry.serving(project_id) == workplace.bundle.version:
        sizes = [process.memory_info().rss for process in worker.family()]
        worker_bytes, job_bytes = max(worker_bytes, sum(sizes)), max(job_bytes, *sizes)
        if job.get_status() in {JobStatus.FINISHED, JobStatus.FAILED}:
            break
        time.sleep(0.05)
    return worker_bytes, job_bytes


def line(row: Measured) -> str:
    seconds = f"{row.to_serving_s:10.1f} {row.training_s:8.1f}"
    return (
        f"{row.habit:28} {seconds} {row.worker_mb:10.0f} {row.job_mb:6.0f} {row.follows:9.0%} "
        f"{row.right_before:7.0%} {row.right:6.0%}"
    )


def bars(rows: Sequence[Measured]) -> dict[str, dict[str, float | bool]]:
    slowest, least = max(row.to_serving_s for row in rows), min(row.follows for row in rows)
    values = {
        "correction_to_serving_s": (slowest, 60.0, slowest <= 60.0),
        "unseen_suggested_right_share": (least, 0.8, least >= 0.8),
    }
    return {
        name: {"value": round(value, 3), "bar": bar, "holds": holds} for name, (value, bar, holds) in values.items()
    }


if __name__ == "__main__":
    main()
