"""The streams of bench-learning and bench-streams, small and drawn."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from model.progress import ProgressDisplay
from tests.aerial import KINDS, WORDS, draw
from tests.benchmarks.bench_learning import Row, run, tables
from tests.benchmarks.bench_streams import Row as StreamRow
from tests.benchmarks.bench_streams import StreamOptions, main, read_photos
from tests.benchmarks.bench_streams import run as run_stream
from tests.benchmarks.learning.streams import Stream, topics
from tests.benchmarks.learning.worlds import World, scenes_world

EACH = 16
STEPS = 2


@pytest.fixture(scope="module")
def world() -> World:
    return scenes_world(scenes=200, corrections=EACH, tested=12, on_progress=lambda _: None)


def learn(world: World, name: str, folder: Path) -> list[Row]:
    stream = topics(world, EACH)
    short = Stream(name=stream.name, steps=stream.steps[:STEPS], old=stream.old)
    with ProgressDisplay() as show:
        return run(world, short, name, Namespace(rows=folder / "rows.jsonl"), show)


@pytest.mark.long
def test_the_topic_before_is_kept_better_than_by_fine_tuning(world: World, tmp_path: Path) -> None:
    ours = learn(world, "ours", tmp_path)
    plain = learn(world, "fine-tuning", tmp_path)

    assert not any(row.remark for row in ours), "nothing is refused"
    assert (ours[-1].earlier or 0) > (plain[-1].earlier or 0)
    assert [line.split(" | ")[0] for line in tables([*plain, *ours])][-2:] == ["| fine-tuning", "| ours"]


def draw_set(folder: Path, name: str, kinds: Sequence[str], count: int) -> Path:
    """Draw pictures of each kind into a set as bench-streams reads it."""
    (folder / name / "images").mkdir(parents=True)
    records = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        draw(kind, number).save(folder / name / "images" / f"{number}.png")
        records.append(json.dumps({"image": f"{number}.png", "captions": [WORDS[kind]]}))
    (folder / name / "captions.jsonl").write_text("\n".join(records), "utf-8")
    return folder


def test_a_project_of_an_unseen_kind_learns_from_its_first_corrections_without_a_training(tmp_path: Path) -> None:
    data = draw_set(tmp_path, "rsicd", KINDS, 60)
    stream = StreamOptions(photos=read_photos("rsicd"), others=lambda _: [])
    arguments = Namespace(
        data=data,
        bundle="scenes",
        folder=tmp_path,
        rows=tmp_path / "rows.jsonl",
        tested=12,
        corrections=40,
        measured=[40],
    )

    with ProgressDisplay() as show:
        first, second = run_stream(stream, "drawn", "memory", 1, arguments, show)

    assert second.edited < 0.2 * second.edited_without
    assert first.edited < first.edited_without
    assert (second.nearly, second.changed, second.remark) == (1.0, 1.0, "")


def write_row(file: Path, stream: str, learner: str, seed: int, corrections: int, cider: float) -> None:
    names = ("words", "nearly", "edited", "edited_without", "other", "other_changed", "changed", "seconds", "peak_mb")
    row = StreamRow(
        stream=stream,
        learner=learner,
        seed=seed,
        corrections=corrections,
        cider=cider,
        remark="",
        **dict.fromkeys(names, 0),
    )
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{json.dumps(asdict(row))}\n")


def test_finished_rows_are_drawn_into_the_same_picture_each_time(tmp_path: Path) -> None:
    rows, pictures = tmp_path / "rows.jsonl", [tmp_path / "first.svg", tmp_path / "second.svg"]
    for seed in (1, 2):
        write_row(rows, "rsicd", "nothing", seed, 60, 2.4)
        for corrections, cider in ((20, 29.7), (40, float("nan")), (60, 47.7 + seed)):
            write_row(rows, "rsicd", "memory", seed, corrections, cider)
    write_row(rows, "flickr8k", "both", 1, 20, float("nan"))

    for picture in pictures:
        main(["--rows", str(rows), "--plot", str(picture)])

    first, second = (picture.read_text("utf-8") for picture in pictures)
    assert first == second
    assert [text for text in ("rsicd", "memory", "without learning") if f">{text}<" not in first] == []
    assert not any(text in first for text in ("flickr8k", "both", "nan", "dc:date"))
