"""Any history of a project, with events that come late, twice, in another order or never: one pull makes all agree.

Hypothesis draws histories of acts in Label Studio and of arrivals of their events. A history is a list of numbers, so
that a failing one can be made short.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.utils import as_text

from tests.fake_label_studio import FakeLabelStudio, Json
from tests.feedback_world import World, suggestion_for, texts, totals_from, totals_of
from tests.redis_server import RedisServer
from worker.feedback.proposals import words
from worker.feedback.script import key

HISTORIES = 2000
IMAGES = [f"/data/upload/1/{animal}.png" for animal in ("dog", "cat")]
CAPTIONS = ("", "a dog", "a cat runs", suggestion_for(IMAGES[0]), f"{suggestion_for(IMAGES[0])} in the sun")
Step = tuple[int, int, int]


class History:
    """Carries out one history."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: list[Json] = []
        """Events that have not arrived."""
        self.arrived: list[Json] = []
        weights: dict[Callable[[int, int], None], int] = {
            self.add_task: 2,
            self.submit: 5,
            self.update: 3,
            self.skip: 1,
            self.delete: 2,
            self.delete_task: 1,
            self.convert_to_draft: 2,
            self.delete_all_tasks: 1,
            self.import_annotation: 1,
            self.move_clock: 2,
            self.create_from_predictions: 1,
            self.arrive: 4,
            self.arrive_all: 1,
            self.arrive_again: 3,
            self.lose: 2,
            self.pull: 4,
            self.pull_while_more_happens: 2,
            self.exclude: 1,
        }
        self._acts = [act for act, weight in weights.items() for _ in range(weight)]

    def run(self, steps: list[Step]) -> None:
        for act, first, second in steps:
            self._acts[act % len(self._acts)](first, second)
            self.waiting += self.world.label_studio.events
            self.world.label_studio.events.clear()

    def end(self, first: int) -> None:
        """Let every event arrive that is not lost, in some order, some of them once more, and pull once."""
        while self.waiting:
            self.arrive(first, 0)
            if first % 4 == 0:
                self.lose(first, 0)
        for number in range(first % 3):
            self.arrive_again(first + number, 0)
        self.world.pull()

    # Acts in Label Studio

    def add_task(self, first: int, _second: int) -> None:
        self.world.add_task(IMAGES[first % len(IMAGES)])

    def submit(self, first: int, second: int) -> None:
        if (task_id := self._pick(self.world.label_studio.tasks, first)) is not None:
            self.world.label_studio.submit(task_id, _result(second), completed_by=1 + first % 3, **self._next_id())

    def skip(self, first: int, second: int) -> None:
        if (task_id := self._pick(self.world.label_studio.tasks, first)) is not None:
            self.world.label_studio.skip(task_id, _result(second), **self._next_id())

    def import_annotation(self, first: int, second: int) -> None:
        if (task_id := self._pick(self.world.label_studio.tasks, first)) is not None:
            self.world.label_studio.import_annotation(task_id, _result(second))

    def create_from_predictions(self, first: int, _second: int) -> None:
        if (task_id := self._pick(self.world.label_studio.tasks, first)) is not None:
            self.world.label_studio.create_from_predictions([task_id])

    def update(self, first: int, second: int) -> None:
        if (number := self._pick(self.world.label_studio.annotations, first)) is not None:
            self.world.label_studio.update(number, _result(second), was_cancelled=second % 7 == 0)

    def delete(self, first: int, _second: int) -> None:
        if (number := self._pick(self.world.label_studio.annotations, first)) is not None:
            self.world.label_studio.delete_annotation(number)

    def convert_to_draft(self, first: int, _second: int) -> None:
        if (number := self._pick(self.world.label_studio.annotations, first)) is not None:
            self.world.label_studio.convert_to_draft(number)

    def delete_task(self, first: int, _second: int) -> None:
        if (task_id := self._pick(self.world.label_studio.tasks, first)) is not None:
            self.world.label_studio.delete_task(task_id)

    def delete_all_tasks(self, first: int, _second: int) -> None:
        """Delete all tasks through the API, which sends no event; not in every history."""
        if first % 4 == 0:
            self.world.label_studio.hold()

    def move_clock(self, first: int, second: int) -> None:
        # Never to the microsecond of an earlier act.
        jump = timedelta(hours=first % 5 - 2, seconds=second % 100, microseconds=len(self.arrived) + second % 991 + 1)
        self.world.label_studio.now += jump

    # Arrivals

    def arrive(self, first: int, _second: int) -> None:
        if self.waiting:
            self._deliver(self.waiting.pop(first % len(self.waiting)))

    def arrive_all(self, _first: int, _second: int) -> None:
        while self.waiting:
            self._deliver(self.waiting.pop(0))

    def arrive_again(self, first: int, _second: int) -> None:
        if self.arrived:
            self.world.deliver(self.arrived[first % len(self.arrived)])

    def lose(self, first: int, _second: int) -> None:
        if self.waiting:
            self.waiting.pop(first % len(self.waiting))

    def pull(self, _first: int, _second: int) -> None:
        self.world.pull()

    def pull_while_more_happens(self, first: int, second: int) -> None:
        steps = [((first + offset) % 27, second + offset, first) for offset in range(1 + second % 4)]
        self.world.during_pull = lambda: self.run(steps)
        self.world.pull()

    # On our side

    def exclude(self, first: int, _second: int) -> None:
        """Exclude a correction as a person or a job does."""
        names = sorted(self.world.captions())
        if names:
            self.world.store.exclude(1, names[first % len(names)], "rude", automatic=first % 2 == 0)

    def _deliver(self, event: Json) -> None:
        self.arrived.append(event)
        self.world.deliver(event)

    def _pick(self, table: dict[int, Json], number: int) -> int | None:
        return sorted(table)[number % len(table)] if table else None

    def _next_id(self) -> dict[str, int]:
        """Use ids again as SQLite does: the next one is that after the highest in use."""
        return {"id": max(self.world.label_studio.annotations, default=0) + 1}


def _result(number: int) -> list[Json]:
    origin = ("manual", "prediction", "prediction-changed")[number % 3]
    return texts(caption=CAPTIONS[number % 5], title=CAPTIONS[(number // 5) % 3], origin=origin)


def held(label_studio: FakeLabelStudio) -> dict[str, tuple[int, str | None]]:
    """Return what Label Studio holds: task and caption by name, None where the task was skipped."""
    content: dict[str, tuple[int, str | None]] = {}
    for number, annotation in label_studio.annotations.items():
        captions = {region["from_name"]: region["value"]["text"][0] for region in annotation["result"]}
        for control in ("caption", "title"):
            if annotation["was_cancelled"]:
                content[f"{number}/{control}"] = annotation["task"], None
            elif captions.get(control):
                content[f"{number}/{control}"] = annotation["task"], captions[control]
    return content


def check(world: World, forgotten: set[int]) -> None:
    """Compare everything with Label Studio, and all totals and indexes with the records.

    Args:
        forgotten: tasks whose suggestions were forgotten, because an event said that they are deleted. Where an event
            came after that, the caption passes for one without a suggestion.
    """
    records = world.records()
    assert {name: (record.task_id, record.caption) for name, record in records.items()} == held(world.label_studio)
    assert world.captions() == {name: record.caption for name, record in records.items() if record.caption is not None}
    for name, record in records.items():
        annotation = world.label_studio.annotations[int(name.split("/")[0])]
        is_forgotten = record.task_id in forgotten and record.suggestion in {None, record.caption}
        expected = expected_outcome(world, annotation, name.split("/")[1], record.caption)
        assert is_forgotten or record.outcome == expected, record
    redis = world.redis
    assert totals_of(redis, 1) == totals_from(redis, 1)
    names = set(records)
    captions = {name for name, record in records.items() if record.caption is not None}
    assert set(members(redis.smembers(key("unseen", 1)))) <= captions
    assert set(members(redis.hkeys(key("excluded", 1)))) <= captions
    entries = {f"a:{name}" for name in names} | {f"t:{record.task_id}:{name}" for name, record in records.items()}
    assert set(members(redis.zrange(key("index", 1), 0, -1))) == entries
    assert redis.hgetall(key("touched", 1)) == {}
    before = redis.hgetall(key("changes", 1))
    assert world.pull().changed == 0
    assert redis.hgetall(key("changes", 1)) == before


def expected_outcome(world: World, annotation: Json, control: str, caption: str | None) -> str:
    if caption is None:
        return "skipped"
    origin = next(region.get("origin") for region in annotation["result"] if region["from_name"] == control)
    if control == "title":  # for which nothing is ever suggested, whatever Label Studio's hint says
        return "accepted" if origin == "prediction" else "written"
    if origin == "manual" and annotation["lead_time"] is None:  # an import, which nobody saw a suggestion for
        return "written"
    [prediction] = [it for it in world.label_studio.predictions.values() if it["task"] == annotation["task"]]
    suggestion = prediction["result"][0]["value"]["text"][0]
    if caption == suggestion:
        return "accepted"
    shared = (Counter(words(suggestion)) & Counter(words(caption))).total()
    return "rewritten" if shared < len(words(suggestion)) / 2 else "edited"


def members(values: Any) -> Iterator[str]:
    return map(as_text, values)


@pytest.fixture
def redis(own_redis: RedisServer) -> Iterator[Redis]:
    """A client of a Redis that writes nothing to its disk: here are some hundred thousand writes."""
    with own_redis.client() as client:
        client.config_set("appendonly", "no")
        yield client


@pytest.fixture(scope="module")
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as server:
        yield server


def start_over(label_studio: FakeLabelStudio) -> None:
    label_studio.hold()
    label_studio.projects.clear()
    label_studio.events.clear()


STEPS = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999)), min_size=12, max_size=28)


@pytest.mark.long
def test_after_any_history_one_pull_makes_the_store_hold_what_label_studio_holds(
    redis: Redis, label_studio: FakeLabelStudio
) -> None:
    tried = 0

    @settings(
        max_examples=HISTORIES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=STEPS, last=st.integers(0, 999))
    def agree(steps: list[Step], last: int) -> None:
        nonlocal tried
        tried += 1
        redis.flushdb()
        start_over(label_studio)
        world = World(redis, label_studio)
        for image in IMAGES:
            world.add_task(image)
        history = History(world)
        history.run(steps)
        history.end(last)
        deleted = [event["tasks"] for event in history.arrived if event["action"] == "TASKS_DELETED"]
        check(world, {task["id"] for tasks in deleted for task in tasks})

    agree()
    assert tried >= HISTORIES
