"""Measures how well learners learn from streams of corrections, how much they forget, and the cost.

    python -m tests.benchmarks.bench_learning                             drawn scenes, small: some minutes
    python -m tests.benchmarks.bench_learning --flickr8k DIR --features DIR [--chinese FILE]     photos: hours

Our retraining is compared with methods from papers. The scores are CIDEr-D x 100 of suggestions for pictures that
nobody corrects. `new` is the score on the pictures that the step teaches, `kept` on those that the base already knew.
`earlier` compares the scores of all earlier steps with their scores just after each was learned. Finished rows are
appended to --rows, and a later run skips them.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.metrics.scores import measure
from model.progress import Progress, ProgressDisplay
from model.torch_captioner import TorchCaptioner, prefer_fast_products
from model.vision.images import image_key
from tests.benchmarks.learning.learners import LEARNERS
from tests.benchmarks.learning.streams import Stream, Test, make_streams
from tests.benchmarks.learning.worlds import World, flickr8k_world, scenes_world, write_captions_of

COLUMNS = "stream                 learner          step     new    kept  earlier  seconds     MB  remark"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of one learner on one stream."""

    world: str
    stream: str
    learner: str
    step: int
    taught: str
    new: float
    kept: float
    """Score on the pictures that the base knew."""
    earlier: float | None
    """Mean share of the score just after each earlier step that is left now; None at the first step."""
    seconds: float
    peak_mb: float
    remark: str


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    prefer_fast_products()
    print(COLUMNS)
    with ProgressDisplay() as show:
        world, streams = make_world(arguments, show)
        rows = []
        for stream in streams:
            for name in arguments.only or LEARNERS:
                rows += known_rows(arguments.rows, world, stream, name) or run(world, stream, name, arguments, show)
    if arguments.plot:
        draw(rows, arguments.plot)
    print(*tables(rows), sep="\n")
    print(json.dumps({"bars": bars(rows)}))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_learning", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--flickr8k", type=Path, help="directory of Flickr8k; default: drawn scenes")
    parser.add_argument("--features", type=Path, help="directory that keeps the photos' features")
    parser.add_argument("--chinese", type=Path, help="captions of the same photos in Chinese")
    parser.add_argument("--each", type=int, default=40, help="corrections of a step (%(default)s)")
    parser.add_argument("--tested", type=int, default=60, help="pictures measured on of each topic (%(default)s)")
    parser.add_argument("--scenes", type=int, default=1200, help="scenes to train the base on (%(default)s)")
    parser.add_argument("--rows", type=Path, default=Path(".bench/learning.jsonl"), help="finished rows (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the rows into this PNG file")
    parser.add_argument("--only", nargs="+", choices=list(LEARNERS), metavar="LEARNER", help="; ".join(LEARNERS))
    return parser.parse_args(argv)


def make_world(arguments: argparse.Namespace, show: ProgressDisplay) -> tuple[World, list[Stream]]:
    counts = {"corrections": arguments.each, "tested": arguments.tested, "on_progress": show}
    if arguments.flickr8k is None:
        world = scenes_world(scenes=arguments.scenes, **counts)
        return world, make_streams(world, each=arguments.each)
    world = flickr8k_world(arguments.flickr8k, arguments.features, **counts)
    chinese = read_chinese(arguments.chinese, arguments.flickr8k / "images") if arguments.chinese else None
    return world, make_streams(world, each=arguments.each, chinese=chinese)


def read_chinese(file: Path, images: Path) -> dict[str, tuple[str, ...]]:
    """Return the captions of each photo by the key of its content."""
    captions: dict[str, list[str]] = {}
    for line in file.read_text("utf-8").splitlines():
        name, _, caption = line.partition(" ")
        captions.setdefault(name.partition("#")[0], []).append(caption)
    return {image_key((images / name).read_bytes()): tuple(texts) for name, texts in captions.items()}


def run(world: World, stream: Stream, name: str, arguments: argparse.Namespace, show: ProgressDisplay) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        learner = LEARNERS[name](world, Path(folder))
        learned: list[tuple[Test, float]] = []
        for number, step in enumerate(stream.steps, start=1):
            show(Progress(phase=f"{stream.name}: {name}", done=number, total=len(stream.steps)))
            started = time.process_time()
            remark = learner.learn(step.corrections)
            seconds = time.process_time() - started
            left = [score(learner.captioner, test) / max(before, 1e-6) for test, before in learned]
            new = score(learner.captioner, step.new)
            rows.append(
                Row(
                    world=world.name,
                    stream=stream.name,
                    learner=name,
                    step=number,
                    taught=step.new.name,
                    new=new,
                    kept=score(learner.captioner, stream.old),
                    earlier=sum(left) / len(left) if left else None,
                    seconds=seconds,
                    peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    remark=remark,
                )
            )
            if step.new.name not in {test.name for test, _ in learned}:
                learned.append((step.new, new))
            print(line(rows[-1]), flush=True)
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    with arguments.rows.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(asdict(row) | {'each': len(stream.steps[0].corrections)})}\n" for row in rows)
    return rows


def known_rows(rows: Path, world: World, stream: Stream, name: str) -> list[Row]:
    """Return the rows of this learner on this stream that were measured before."""
    stored = [json.loads(text) for text in rows.read_text("utf-8").splitlines()] if rows.exists() else []
    wanted = (world.name, stream.name, name, len(stream.steps[0].corrections))
    matching = [row for row in stored if (row["world"], row["stream"], row["learner"], row.pop("each")) == wanted]
    for row in matching:
        print(line(Row(**row)))
    return [Row(**row) for row in matching]


def score(captioner: TorchCaptioner, test: Test) -> float:
    """Return CIDEr-D x 100 of the suggestions for these pictures."""
    return 100 * measure(write_captions_of(captioner, test.pictures), test.references).cider_d


def line(row: Row) -> str:
    earlier = f"{row.earlier:8.0%}" if row.earlier is not None else f"{'-':>8}"
    start = f"{row.stream:22} {row.learner:16} {row.step:4} {row.new:7.1f} {row.kept:7.1f} {earlier}"
    return f"{start} {row.seconds:8.1f} {row.peak_mb:6.0f}  {row.remark[:60]}"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a Markdown table for each stream, with a line for each learner."""
    for stream in dict.fromkeys(row.stream for row in rows):
        yield f"\n| {stream} | new, step by step | mean | what the base knew, step by step | left | a step | MB |"
        yield "|---|---|---|---|---|---|---|"
        for name in LEARNERS:
            measured = [row for row in rows if (row.stream, row.learner) == (stream, name)]
            if measured:
                new, old = ([getattr(row, column) for row in measured] for column in ("new", "kept"))
                is_all_to_be_kept = len({row.taught for row in measured}) == len(measured) > 2
                left = f"{100 * (measured[-1].earlier or 0.0):.0f} %" if is_all_to_be_kept else "-"
                cost = f"{sum(row.seconds for row in measured) / len(measured):.0f} s | {measured[-1].peak_mb:.0f}"
                yield f"| {name} | {_listed(new)} | {sum(new) / len(new):.0f} | {_listed(old)} | {left} | {cost} |"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the scores `new` and `kept` after each step: a row for each stream, a line for each learner."""
    streams = list(dict.fromkeys(row.stream for row in rows))
    figure = Figure(figsize=(10, 2.6 * len(streams)), layout="constrained")
    FigureCanvasAgg(figure)
    for stream, (new, old) in zip(streams, figure.subplots(len(streams), 2, squeeze=False), strict=True):
        for name in LEARNERS:
            measured = [row for row in rows if (row.stream, row.learner) == (stream, name)]
            width = 2.5 if name == "ours" else 1.0
            steps = [row.step for row in measured]
            new.plot(steps, [row.new for row in measured], marker=".", linewidth=width, label=name)
            old.plot(steps, [row.kept for row in measured], marker=".", linewidth=width, label=name)
        new.set_title(f"{stream}: what the step taught", fontsize="medium")
        old.set_title(f"{stream}: what the base knew", fontsize="medium")
        for axes in (new, old):
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel("CIDEr-D x 100")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LEARNERS))
    figure.savefig(path, dpi=80)


def bars(rows: Sequence[Row]) -> Mapping[str, dict[str, float | bool]]:
    """Return our results on the five topics: what is left of earlier topics, and the newest against fine-tuning."""
    by_learner = {
        name: [row for row in rows if row.learner == name and row.stream == "five topics"]
        for name in ("ours", "fine-tuning")
    }
    ours, plain = by_learner["ours"], by_learner["fine-tuning"]
    if not ours or not plain:
        return {}
    left = ours[-1].earlier or 0.0
    new = sum(row.new for row in ours) / sum(row.new for row in plain)
    return {
        "earlier_topics_left": {"value": round(left, 3), "bar": 0.95, "holds": left >= 0.95},
        "new_x_fine_tuning": {"value": round(new, 3), "bar": 0.95, "holds": new >= 0.95},
    }


if __name__ == "__main__":
    main()
