"""The streams of bench-learning, small: a project learns one topic after the other."""

from argparse import Namespace
from pathlib import Path

import pytest

from model.progress import ProgressDisplay
from tests.benchmarks.bench_learning import Row, run, tables
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


def test_the_topic_before_is_kept_better_than_by_fine_tuning(world: World, tmp_path: Path) -> None:
    ours = learn(world, "ours", tmp_path)
    plain = learn(world, "fine-tuning", tmp_path)

    assert not any(row.remark for row in ours), "nothing is refused"
    assert (ours[-1].earlier or 0) > (plain[-1].earlier or 0)
    assert [line.split(" | ")[0] for line in tables([*plain, *ours])][-2:] == ["| fine-tuning", "| ours"]
