"""Measures what a project gains from its first corrections on, on real photos of several kinds.

    python -m tests.benchmarks.bench_streams --data DIR                     all streams, 3 seeds: some hours
    python -m tests.benchmarks.bench_streams --data DIR --only rsicd --learners memory --seeds 1
    python -m tests.benchmarks.bench_streams --plot FILE.svg                draws the finished rows, measures nothing

An annotator in process asks the real backend for each suggestion and reports the annotation by webhook. Redis, the
feature store, the memory and the training are those of the product. `edit`: the annotator turns the suggestion into
the nearest of the image's human captions. `fresh`: he writes one of them, whatever the suggestion says. Now and then
the suggestions for 100 other images are measured. Finished rows are appended to --rows, and a later run skips them.
"""

import argparse
import json
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from backend.captioning.memories import Memories
from model.metrics.scores import edits_to_nearest, measure
from model.metrics.words import metric_words
from model.progress import Progress, ProgressDisplay
from model.torch_captioner import prefer_fast_products
from tests.annotator import Annotator, text_of
from tests.backend_client import BackendClient
from tests.benchmarks.learning.streams import restated
from tests.factories import environment_of
from tests.image_server import ImageServer
from tests.redis_server import RedisServer
from worker.learning.training_run import retrain
from worker.queue.retraining import retraining_key, retrainings_of
from worker.settings import Settings

BLOCK = 20
CORRECTIONS = 200
TESTED = 100
OTHER_KIND = 50
LEARNERS = ("nothing", "memory", "weights", "both")
AT_ONCE = 25
GARBAGE = ("asdf", "qwer", "lol", "xx", "haha", "foo", "bar")


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo and what people say about it."""

    path: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """One project: its photos, and what its annotator does."""

    photos: Callable[[Path], list[Photo]]
    others: Callable[[Path], list[Photo]]
    """Photos of another kind, which appear in the same project."""
    is_fresh: bool = False
    garbage: float = 0.0
    """Share of the captions that are nonsense."""
    writes: Callable[[str], str] = str
    """Turns a human caption into what the annotator writes."""
    chooses: Callable[[Sequence[str]], str] | None = None
    """Chooses among the human captions, where the annotator has a habit."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One block of corrections of one stream."""

    stream: str
    learner: str
    seed: int
    corrections: int
    cider: float
    """CIDEr-D x 100 of the suggestions for other images of the project."""
    words: float
    """Words to edit in each of them, to the nearest human caption."""
    nearly: float
    """Share of them within two words of a human caption."""
    edited: int
    """Words that the annotator edited in this block."""
    edited_without: int
    """Words that he would have edited without any learning."""
    other: float
    """CIDEr-D x 100 of suggestions for photos of another kind in the same project."""
    other_changed: float
    """Share of those suggestions that differ from the bundle's."""
    changed: float
    """Share of the suggestions for other images of the project that differ from the bundle's."""
    seconds: float
    """CPU time of this block: suggesting, storing, judging, training."""
    peak_mb: float
    remark: str


def read_photos(name: str, writes: Callable[[str], str] = str) -> Callable[[Path], list[Photo]]:
    """Return a reader of the photos of a set with captions.jsonl."""

    def read(data: Path) -> list[Photo]:
        lines = (data / name / "captions.jsonl").read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return [
            Photo(path=data / name / "images" / record["image"], captions=tuple(map(writes, record["captions"])))
            for record in records
        ]

    return read


def flickr8k(data: Path, captions: Mapping[str, Sequence[str]] | None = None) -> list[Photo]:
    """Return the test photos of Flickr8k, which the bundle was not trained on."""
    folder = data / "flickr8k"
    if captions is None:
        lines = (folder / "Flickr8k.token.txt").read_text("utf-8").splitlines()
        captions = _grouped((line.split("\t", 1)[0], line.split("\t", 1)[1]) for line in lines)
    names = (folder / "Flickr_8k.testImages.txt").read_text("utf-8").split()
    return [
        Photo(path=folder / "images" / name, captions=tuple(captions[name]))
        for name in names
        if name in captions and (folder / "images" / name).exists()
    ]


def chinese(data: Path) -> list[Photo]:
    """Return photos of Flickr8k with their Chinese captions, those that are not of the test split among them."""
    lines = (data / "flickr8k_cn" / "flickr8kzhc.caption.txt").read_text("utf-8").splitlines()
    captions = _grouped(tuple(line.split(" ", 1)) for line in lines if " " in line)
    folder = data / "flickr8k" / "images"
    return [
        Photo(path=folder / name, captions=tuple(texts)) for name, texts in captions.items() if (folder / name).exists()
    ]


def _grouped(pairs: Iterator[tuple[str, ...]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for name, text in pairs:
        captions.setdefault(name.partition("#")[0], []).append(text.strip())
    return captions


def house_style(data: Path) -> list[Photo]:
    """Return Flickr8k's test photos with captions in a team's style."""
    return [Photo(path=photo.path, captions=tuple(map(restated, photo.captions))) for photo in flickr8k(data)]


def longest(captions: Sequence[str]) -> str:
    return max(captions, key=lambda caption: len(metric_words(caption)))


def shortest(captions: Sequence[str]) -> str:
    return min(captions, key=lambda caption: len(metric_words(caption)))


aerial, flowers = read_photos("rsicd"), read_photos("oxford-flowers")
products, coco = read_photos("fashion-products"), read_photos("coco-mixed")
STREAMS: Mapping[str, StreamOptions] = {
    "rsicd": StreamOptions(photos=aerial, others=flickr8k),
    "fashion-products": StreamOptions(photos=products, others=flickr8k),
    "oxford-flowers": StreamOptions(photos=flowers, others=flickr8k),
    "flickr8k": StreamOptions(photos=flickr8k, others=aerial),
    "coco-mixed": StreamOptions(photos=coco, others=aerial),
    "house style": StreamOptions(photos=house_style, others=aerial, is_fresh=True),
    "Chinese": StreamOptions(photos=chinese, others=aerial, is_fresh=True),
    "garbage": StreamOptions(photos=flickr8k, others=aerial, garbage=1.0),
    "rsicd, 20 % garbage": StreamOptions(photos=aerial, others=flickr8k, garbage=0.2),
    "long captions": StreamOptions(photos=flickr8k, others=aerial, chooses=longest),
    "short captions": StreamOptions(photos=flickr8k, others=aerial, chooses=shortest),
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.plot:
        from tests.benchmarks.streams_plot import draw  # matplotlib takes memory, which each row reports

        draw([row for row in stored_rows(arguments.rows) if row.stream in (arguments.only or STREAMS)], arguments.plot)
        return
    torch.set_num_threads(1)
    prefer_fast_products()
    rows: list[Row] = []
    print(f"{'stream':22} {'learner':8} {'seed':4} {'n':>4} CIDEr-D  words nearly edited other changed  s    MB")
    with ProgressDisplay() as show:
        for name in arguments.only or STREAMS:
            for learner in arguments.learners:
                for seed in arguments.seeds:
                    found = known_rows(arguments.rows, name, learner, seed)
                    rows += found or list(run(STREAMS[name], name, learner, seed, arguments, show))
    print(*tables(rows), sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_streams", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="directory with the sets of photos")
    parser.add_argument(
        "--only", nargs="+", choices=list(STREAMS), metavar="STREAM", help="; ".join(STREAMS).replace("%", "%%")
    )
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=["memory"], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--bundle", default="photos", help="CAPTION_BUNDLE (%(default)s)")
    parser.add_argument("--tested", type=int, default=TESTED, help="other images of each stream (%(default)s)")
    parser.add_argument("--corrections", type=int, default=CORRECTIONS, help="of each stream (%(default)s)")
    parser.add_argument(
        "--measured",
        nargs="+",
        type=int,
        default=[20, 60, 100, 160, 200],
        help="corrections after which the other images are measured (%(default)s)",
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench/streams"), help="keeps features (%(default)s)")
    parser.add_argument("--rows", type=Path, default=Path(".bench/streams.jsonl"), help="finished rows (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the finished rows, and measure nothing")
    arguments = parser.parse_args(argv)
    if not (arguments.data or arguments.plot):
        parser.error("--data is needed to measure, and --plot to draw")
    return arguments


def run(
    options: StreamOptions, name: str, learner: str, seed: int, arguments: argparse.Namespace, show: ProgressDisplay
) -> Iterator[Row]:
    """Yield a row for each block of a stream."""
    draw = random.Random(f"{name} {seed}")
    photos = options.photos(arguments.data)
    draw.shuffle(photos)
    tested = photos[: arguments.tested]
    corrected = photos[arguments.tested :][: arguments.corrections]
    others = options.others(arguments.data)
    draw.shuffle(others)
    with project(arguments.folder, arguments.bundle, learner) as office:
        without = office.captions([*tested, *corrected, *others[:OTHER_KIND]])
        edited = edited_without = 0
        began = time.process_time()
        for number, photo in enumerate(corrected, start=1):
            suggestion = office.captions([photo])[photo.path]
            caption = write(photo, suggestion, options, draw)
            aims = [caption] if options.is_fresh or options.chooses else photo.captions
            edited += distance(suggestion, aims)
            edited_without += distance(without[photo.path], aims)
            office.submit(photo, caption)
            remark = office.train() if learner in {"weights", "both"} else ""
            show(Progress(phase=f"{name}: {learner}, seed {seed}", done=number, total=len(corrected)))
            if number % BLOCK:
                continue
            seconds = time.process_time() - began
            now = office.captions([*tested, *others[:OTHER_KIND]]) if number in arguments.measured else None
            row = make_row(
                now,
                without,
                tested,
                others[:OTHER_KIND],
                name=name,
                learner=learner,
                seed=seed,
                number=number,
                edited=(edited, edited_without),
                seconds=seconds,
                remark=remark,
            )
            print(line(row), flush=True)
            arguments.rows.parent.mkdir(parents=True, exist_ok=True)
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(asdict(row))}\n")
            yield row
            edited = edited_without = 0
            began = time.process_time()


def write(photo: Photo, suggestion: str, options: StreamOptions, draw: random.Random) -> str:
    """Return what the annotator makes of a suggestion."""
    if options.garbage and draw.random() < options.garbage:
        return " ".join(draw.choice(GARBAGE) for _ in range(draw.randint(2, 6)))
    if options.chooses is not None:
        return options.chooses(photo.captions)
    if options.is_fresh:
        return photo.captions[0]
    return min(photo.captions, key=lambda caption: distance(suggestion, [caption]))


def distance(caption: str, aims: Sequence[str]) -> int:
    """Return the words to edit to the nearest of the aims."""
    return edits_to_nearest(metric_words(caption), [metric_words(text) for text in aims])[0]


def make_row(
    now: Mapping[Path, str] | None,
    without: Mapping[Path, str],
    tested: Sequence[Photo],
    others: Sequence[Photo],
    *,
    name: str,
    learner: str,
    seed: int,
    number: int,
    edited: tuple[int, int],
    seconds: float,
    remark: str,
) -> Row:
    nan = float("nan")
    values = {"cider": nan, "words": nan, "nearly": nan, "other": nan, "other_changed": nan, "changed": nan}
    if now is not None:
        scores = measure([now[photo.path] for photo in tested], [photo.captions for photo in tested])
        near = [distance(now[photo.path], photo.captions) <= 2 for photo in tested]
        of_others = (
            measure([now[photo.path] for photo in others], [photo.captions for photo in others]) if others else None
        )
        values = {
            "cider": 100 * scores.cider_d,
            "words": scores.word_edits,
            "nearly": sum(near) / len(near),
            "other": 100 * of_others.cider_d if of_others else nan,
            "other_changed": share_changed(now, without, others),
            "changed": share_changed(now, without, tested),
        }
    return Row(
        stream=name,
        learner=learner,
        seed=seed,
        corrections=number,
        edited=edited[0],
        edited_without=edited[1],
        seconds=seconds,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        remark=remark,
        **values,
    )


def share_changed(now: Mapping[Path, str], without: Mapping[Path, str], photos: Sequence[Photo]) -> float:
    """Return the share of photos whose suggestion has other words; case and signs do not count."""
    changed = sum(metric_words(now[photo.path]) != metric_words(without[photo.path]) for photo in photos)
    return changed / max(len(photos), 1)


class Office:
    """One project of the product in this process, with its annotator."""

    def __init__(self, settings: Settings, server: ImageServer) -> None:
        self._settings, self._server = settings, server
        self._annotator = Annotator(BackendClient(settings))
        self._numbers: dict[Path, int] = {}

    def captions(self, photos: Sequence[Photo]) -> dict[Path, str]:
        """Return the suggestions for photos."""
        captions: dict[Path, str] = {}
        for start in range(0, len(photos), AT_ONCE):
            some = {self._number(photo): self._address(photo) for photo in photos[start : start + AT_ONCE]}
            results = self._annotator.suggestions(some)
            captions |= {
                photo.path: text_of(results[self._numbers[photo.path]]) for photo in photos[start : start + AT_ONCE]
            }
        return captions

    def submit(self, photo: Photo, caption: str) -> None:
        self._annotator.submit(self._number(photo), self._address(photo), caption)

    def train(self) -> str:
        """Train if the product has enqueued a training; return the decision."""
        redis = self._annotator.backend.services.redis
        if retrainings_of(redis, [1])[1].waiting is None:
            return ""
        redis.delete(retraining_key(1), *redis.keys("rq:*"))
        with patch.dict(os.environ, environment_of(self._settings)):
            outcome = retrain(1, "bench")
        return str(outcome["decision"]) if isinstance(outcome, dict) else ""

    def _number(self, photo: Photo) -> int:
        return self._numbers.setdefault(photo.path, len(self._numbers) + 1)

    def _address(self, photo: Photo) -> str:
        path = f"/{self._number(photo)}.jpg"
        self._server.pages[path] = photo.path.read_bytes()
        return self._server.url + path


@contextmanager
def project(folder: Path, bundle: str, learner: str) -> Iterator[Office]:
    """Start Redis and a backend for one project; features of photos are kept in `folder` for other projects."""
    features = (folder / "features").resolve()
    features.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, ImageServer() as server:
        store = Path(place) / "store"
        store.mkdir()
        (store / "features").symlink_to(features)
        redis = RedisServer(Path(place) / "redis", fsync="no")
        redis.start()
        try:
            settings = Settings(
                redis_url=redis.url,
                model_store=str(store),
                caption_bundle=bundle,
                label_studio_url=server.url,
                label_studio_api_key="f" * 40,
                refresh_predictions=False,
            )
            with without_memory() if learner in {"nothing", "weights"} else patch.dict({}):
                yield Office(settings, server)
        finally:
            redis.kill()


@contextmanager
def without_memory() -> Iterator[None]:
    with patch.object(Memories, "open", lambda *_: None):
        yield


def known_rows(path: Path, name: str, learner: str, seed: int) -> list[Row]:
    """Return the rows that were measured before."""
    rows = [row for row in stored_rows(path) if (row.stream, row.learner, row.seed) == (name, learner, seed)]
    for row in rows:
        print(line(row))
    return rows


def stored_rows(path: Path) -> list[Row]:
    """Return all rows that were measured before."""
    return [Row(**json.loads(text)) for text in path.read_text("utf-8").splitlines()] if path.exists() else []


def line(row: Row) -> str:
    start = f"{row.stream:22} {row.learner:8} {row.seed:4} {row.corrections:4} {row.cider:7.1f} {row.words:6.2f}"
    edited = f"{row.edited:5}/{row.edited_without:<5}"
    changes = f"{row.other:5.1f} {row.other_changed:4.0%} {row.changed:4.0%}"
    decision = re.sub(r"[.:].*", "", row.remark)[:60]
    return f"{start} {row.nearly:6.0%} {edited} {changes} {row.seconds:5.1f} {row.peak_mb:5.0f} {decision}"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield Markdown tables: each number is the mean of the seeds."""
    counts = sorted({row.corrections for row in rows if row.cider == row.cider})
    yield "\n| stream | learner | " + " | ".join(f"{count}" for count in counts) + " | edited beside no learning |"
    yield "|---|---|" + "---|" * (len(counts) + 1)
    for stream in dict.fromkeys(row.stream for row in rows):
        for learner in dict.fromkeys(row.learner for row in rows if row.stream == stream):
            measured = [row for row in rows if (row.stream, row.learner) == (stream, learner)]
            cells = []
            for count in counts:
                of_count = [row for row in measured if row.corrections == count]
                cider = sum(row.cider for row in of_count) / max(len(of_count), 1)
                words = sum(row.words for row in of_count) / max(len(of_count), 1)
                cells.append(f"{cider:.1f} / {words:.2f}")
            share = sum(row.edited for row in measured) / max(sum(row.edited_without for row in measured), 1)
            yield f"| {stream} | {learner} | {' | '.join(cells)} | {share:.2f} |"


if __name__ == "__main__":
    main()
