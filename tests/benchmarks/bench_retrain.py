"""Measures the time from the 20th correction until a new version serves, and the memory of the worker.

    python -m tests.benchmarks.bench_retrain [--corrections 20] [--earlier 0]
    python -m tests.benchmarks.bench_retrain --flickr8k DIR         with the bundle of photos

Redis and the worker process are real. Corrections are stored and trainings started as the backend does it, and the
features are computed before. The annotators of each project have one habit: a word that the captioner has never seen,
words in front of every caption, or words left out at its end. The last columns are about pictures that nobody
corrected: the share of suggestions that follow the habit, and their quality before and after. The quality is the per
cent of scenes without a wrong fact, or CIDEr-D x 100 for photos.
"""

import argparse
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import torch
from PIL import Image
from redis import Redis
from rq.job import JobStatus

from backend.demo.scenes.drawing import draw_scenes
from model.bundle import load_bundle
from model.caption_files.read import CaptionSource, read_captions
from model.decoders.search import DecodingOptions
from model.metrics.scores import measure as measure_captions
from model.torch_captioner import TorchCaptioner
from model.vision.images import decode_image
from recipes.scenes.scene_evaluation import best_captions, report_facts
from tests.factories import make_correction, store_annotation
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import Workplace
from worker.feedback.waiting import claim, mark_trained
from worker.queue.trigger import retrain_when_due
from worker.settings import Settings

UNSEEN = 150
SCENES = 700
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
COLUMNS = "habit                         to serving  fitting  worker MB job MB  follows   good before, after"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """A change that annotators make in every caption."""

    name: str
    restate: Callable[[str], str]
    undo: Callable[[str], str]
    """Turns a caption back into the words without the habit, as far as possible."""


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


PHOTO_HABITS = (
    Habit(
        name="man is guy",
        restate=lambda caption: re.sub(r"\b(m|M)an\b", lambda match: "guy" if match[1] == "m" else "Guy", caption),
        undo=lambda caption: re.sub(r"\b(g|G)uy\b", lambda match: "man" if match[1] == "g" else "Man", caption),
    ),
    Habit(
        name='begins with "In this photo,"',
        restate=lambda caption: f"In this photo, {caption[:1].lower()}{caption[1:]}",
        undo=lambda caption: caption.removeprefix("In this photo, ").capitalize(),
    ),
    Habit(
        name="no full stop",
        restate=lambda caption: re.sub(r" ?\.$", "", caption),
        undo=lambda caption: caption,
    ),
)


@dataclass(frozen=True, kw_only=True)
class World:
    """Pictures, the bundle's suggestions for them, and the habits of annotators."""

    habits: tuple[Habit, ...]
    pictures: Sequence[Image.Image]
    suggested: Sequence[str]
    quality: Callable[[Habit, Sequence[int], Sequence[str]], float]
    """Returns the quality of captions in a habit, for the pictures with these numbers."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Cost of a habit, and its effect on unseen pictures that it concerns."""

    habit: str
    to_serving_s: float
    training_s: float
    worker_mb: float
    """Peak of the worker and its processes together, resident."""
    job_mb: float
    """Peak of the process of one job, resident."""
    follows: float
    """Share of captions that follow the habit."""
    good_before: float
    """Quality of the earlier suggestions, rewritten in the habit."""
    good: float
    edits: list[str]
    """Word changes that the version's record lists."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis")
        server.start()
        bundle = "scenes" if arguments.flickr8k is None else "photos"
        workplace = make_workplace(server.url, bundle, arguments.corrections, Path(folder))
        captioner = workplace.bundle.captioner()
        world = photos_world(captioner, arguments.flickr8k) if arguments.flickr8k else scenes_world(captioner)
        worker = WorkerProcess(Path(folder) / "worker.log", workplace.environment())
        try:
            print(f"{workplace.bundle.version}, {arguments.corrections} corrections of each habit\n{COLUMNS}")
            for project_id in range(1, arguments.habits + 1):
                store_earlier(workplace, project_id, arguments.earlier)
                rows.append(measure(workplace, worker, world, project_id, arguments.corrections))
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
    parser.add_argument(
        "--earlier", type=int, default=0, help="corrections that the project had before, already learned"
    )
    parser.add_argument("--flickr8k", type=Path, help="directory of Flickr8k; uses photos instead of scenes")
    parser.add_argument("--habits", type=int, default=3, help="how many of the three habits to measure")
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


def scenes_world(captioner: TorchCaptioner) -> World:
    """Return drawn scenes; a caption is good when it states no wrong fact."""
    pictured = draw_scenes(SCENES, seed=404, size=192)
    pictures = [picture for picture, _ in pictured]

    def quality(habit: Habit, numbers: Sequence[int], captions: Sequence[str]) -> float:
        plain = [habit.undo(caption) for caption in captions]
        return 100 * report_facts(plain, [pictured[number][1] for number in numbers]).correct

    suggested = best_captions(captioner, pictures, DecodingOptions())
    return World(habits=HABITS, pictures=pictures, suggested=suggested, quality=quality)


def photos_world(captioner: TorchCaptioner, folder: Path) -> World:
    """Return the test photos of Flickr8k; the quality is CIDEr-D x 100 against people's captions in the same habit."""
    names = folder / "Flickr_8k.testImages.txt"
    source = CaptionSource(captions=folder / "Flickr8k.token.txt", images=folder / "images", names=names)
    images = read_captions(source).images
    pictures = [decode_image(image.file.read_bytes()) for image in images]

    def quality(habit: Habit, numbers: Sequence[int], captions: Sequence[str]) -> float:
        people = [[habit.restate(caption) for caption in images[number].captions] for number in numbers]
        return 100 * measure_captions(captions, people).cider_d

    suggested = best_captions(captioner, pictures, DecodingOptions())
    return World(habits=PHOTO_HABITS, pictures=pictures, suggested=suggested, quality=quality)


def store_earlier(workplace: Workplace, project_id: int, count: int) -> None:
    """Give the project a version that has learned `count` corrections, each of another picture."""
    if not count:
        return
    looks = [example.features for example in workplace.bundle.replay]
    noise = torch.Generator().manual_seed(0)
    states = []
    for number in range(1, count + 1):
        picture = workplace.bundle.replay[number % len(looks)]
        correction = make_correction(
            project_id=project_id,
            annotation_id=1_000_000 + number,
            image_key=hashlib.sha256(f"{project_id} {number}".encode()).hexdigest(),
            caption=picture.caption,
            updated_at=(BEGIN + timedelta(seconds=number)).isoformat(),
        )
        other = picture.features + picture.features.float().std() * torch.randn(picture.features.shape, generator=noise)
        workplace.features.put(str(correction.image_key), other)
        store_annotation(workplace.redis, correction)
        states.append(correction.state)
    mark_trained(workplace.redis, project_id, claim(workplace.redis, project_id))
    workplace.registry.publish(
        project_id,
        workplace.bundle.captioner(),
        parent=workplace.bundle.version,
        metrics={"known_states": states},
        corrections=[],
        decision="it says already what they say",
    )


def measure(workplace: Workplace, worker: WorkerProcess, world: World, project_id: int, count: int) -> Measured:
    habit = world.habits[project_id - 1]
    unseen, started = store_corrections(workplace, world, habit, project_id, count)
    job_id = retrain_when_due(workplace.redis, workplace.settings, project_id)
    assert job_id is not None
    worker_bytes, job_bytes = watch(workplace, worker, project_id, job_id)
    to_serving_s = time.monotonic() - started

    versions = workplace.registry.versions(project_id)
    if not versions or not versions[-1].published or "training" not in versions[-1].metrics:
        raise SystemExit(f"nothing was published:\n{worker.log.read_text()}")
    version = versions[-1]
    after = workplace.registry.load(project_id, version.name, workplace.bundle)
    captions = best_captions(after, [world.pictures[number] for number in unseen], DecodingOptions())
    before = [habit.restate(world.suggested[number]) for number in unseen]
    return Measured(
        habit=habit.name,
        to_serving_s=to_serving_s,
        training_s=version.metrics["training"]["seconds"],
        worker_mb=worker_bytes / 1e6,
        job_mb=job_bytes / 1e6,
        follows=sum(habit.restate(habit.undo(text)) == text for text in captions) / len(unseen),
        good_before=world.quality(habit, unseen, before),
        good=world.quality(habit, unseen, captions),
        edits=version.metrics["systematic_edits"],
    )


def store_corrections(
    workplace: Workplace, world: World, habit: Habit, project_id: int, count: int
) -> tuple[list[int], float]:
    """Store corrections in a habit; return the numbers of other pictures that it concerns, and when the last came."""
    captioner = workplace.bundle.captioner()
    concerned = [number for number, text in enumerate(world.suggested) if habit.restate(text) != text]
    corrected, unseen = concerned[:count], concerned[count : count + UNSEEN]
    if len(unseen) < UNSEEN // 3:
        raise SystemExit(f"{habit.name!r} concerns only {len(concerned)} pictures")
    started = time.monotonic()
    for number in corrected:
        started = time.monotonic()
        picture, text = world.pictures[number], world.suggested[number]
        correction = make_correction(
            project_id=project_id,
            annotation_id=number + 1,
            image_key=hashlib.sha256(picture.tobytes()).hexdigest(),
            proposed=text,
            caption=habit.restate(text),
            model_version=workplace.bundle.version,
        )
        workplace.features.put(str(correction.image_key), captioner.encode([picture])[0])
        store_annotation(workplace.redis, correction)
    return unseen, started


def watch(workplace: Workplace, worker: WorkerProcess, project_id: int, job_id: str) -> tuple[int, int]:
    """Wait until a new version serves; return the peak bytes of the worker with its processes, and of one process."""
    job, worker_bytes, job_bytes = workplace.job(job_id), 0, 0
    before = workplace.registry.serving(project_id)
    while workplace.registry.serving(project_id) == before:
        with suppress(psutil.NoSuchProcess):  # a job may end while we look
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
        f"{row.good_before:13.1f} {row.good:6.1f}"
    )


def bars(rows: Sequence[Measured]) -> dict[str, dict[str, float | bool]]:
    slowest, least = max(row.to_serving_s for row in rows), min(row.follows for row in rows)
    values = {
        "correction_to_serving_s": (slowest, 30.0, slowest <= 30.0),
        "unseen_suggested_right_share": (least, 0.8, least >= 0.8),
    }
    return {
        name: {"value": round(value, 3), "bar": bar, "holds": holds} for name, (value, bar, holds) in values.items()
    }


if __name__ == "__main__":
    main()
