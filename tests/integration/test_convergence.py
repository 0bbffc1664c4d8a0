"""Feedback converges to what Label Studio holds, whatever the order, repetition, delay or loss of events."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from tests.fake_label_studio import FakeLabelStudio, Json
from tests.feedback_world import VERSION, World, suggestion_for, texts
from worker.feedback.waiting import claim, mark_trained, read_waiting
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue

IMAGE = "/data/upload/1/dog.png"


@pytest.fixture
def world(redis: Redis) -> Iterator[World]:
    with FakeLabelStudio() as label_studio:
        yield World(redis, label_studio, has_api_key=True)


def submit(world: World, task_id: int, caption: str, annotation_id: int | None = None) -> tuple[int, Json]:
    """Submit a caption; return the annotation's id, and the event that is still to arrive."""
    fields = {} if annotation_id is None else {"id": annotation_id}
    number = world.label_studio.submit(task_id, texts(caption=caption), **fields)
    return number, world.event()


def update(world: World, annotation_id: int, caption: str) -> Json:
    world.label_studio.update(annotation_id, texts(caption=caption))
    return world.event()


def delete(world: World, annotation_id: int) -> Json:
    world.label_studio.delete_annotation(annotation_id)
    return world.event()


def delete_task(world: World, task_id: int) -> Json:
    world.label_studio.delete_task(task_id)
    return world.event()


def set_clock_back(world: World) -> None:
    world.label_studio.now -= timedelta(hours=1, microseconds=7)


def soonest_pull_s(redis: Redis) -> float | None:
    """Return in how many seconds a pull is due; None when none is scheduled."""
    scheduled = redis.zrange(queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.key, 0, 0, withscores=True)
    return float(scheduled[0][1]) - time.time() if scheduled else None


def test_a_caption_that_is_filled_again_stays_though_the_emptying_arrives_later(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    emptied, filled = update(world, number, ""), update(world, number, "a cat")

    world.deliver(created, filled, emptied)

    assert world.captions() == {f"{number}/caption": "a cat"}


def test_a_late_copy_of_an_emptying_changes_nothing(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    emptied, filled = update(world, number, ""), update(world, number, "a cat")

    world.deliver(created, emptied, filled, emptied)

    assert world.captions() == {f"{number}/caption": "a cat"}


def test_a_caption_that_arrives_after_its_emptying_stays_out(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    emptied = update(world, number, "")

    world.deliver(emptied, created)

    assert world.captions() == {}


def test_a_deletion_that_arrives_after_another_annotation_has_the_id_removes_nothing(world: World) -> None:
    task_id = world.add_task()
    number, first = submit(world, task_id, "a dog")
    deleted = delete(world, number)
    _, second = submit(world, task_id, "a cat", number)

    world.deliver(first, second, deleted)

    assert world.captions() == {f"{number}/caption": "a cat"}


def test_a_deletion_of_an_annotation_we_never_saw_costs_its_successor_one_pull(world: World) -> None:
    task_id = world.add_task()
    number, _ = submit(world, task_id, "a dog")
    deleted = delete(world, number)
    _, second = submit(world, task_id, "a cat", number)

    world.deliver(second, deleted)
    world.pull()

    assert world.captions() == {f"{number}/caption": "a cat"}


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_late_copy_of_a_deletion_costs_a_new_annotation_with_the_id_one_pull(world: World, is_recorded: bool) -> None:
    task_id = world.add_task()
    number, first = submit(world, task_id, "a dog")
    deleted = delete(world, number)
    _, second = submit(world, task_id, "a cat", number)

    world.deliver(*([first] if is_recorded else []), deleted, second, deleted)
    soonest_s = soonest_pull_s(world.redis)
    world.pull()

    assert world.captions() == {f"{number}/caption": "a cat"}
    assert soonest_s is not None
    assert soonest_s <= 10


def test_a_late_copy_of_the_deletion_of_a_task_costs_a_new_task_with_the_id_one_pull(world: World) -> None:
    task_id = world.add_task()
    number, first = submit(world, task_id, "a dog")
    deleted = delete_task(world, task_id)
    world.deliver(first, deleted)
    world.label_studio.now = datetime.now(UTC)
    assert world.add_task() == task_id
    _, second = submit(world, task_id, suggestion_for(IMAGE), number)
    world.deliver(second)
    before = world.records()

    world.deliver(deleted)
    soonest_s = soonest_pull_s(world.redis)
    world.pull()

    assert world.records() == before
    assert before[f"{number}/caption"].outcome == "accepted"
    assert soonest_s is not None
    assert soonest_s <= 10


def test_the_clock_set_back_keeps_no_annotation_with_a_used_id_out(world: World) -> None:
    task_id = world.add_task()
    number, first = submit(world, task_id, "a dog")
    deleted = delete(world, number)
    set_clock_back(world)
    _, second = submit(world, task_id, "a cat", number)

    world.deliver(first, deleted, second)
    world.pull()

    assert world.captions() == {f"{number}/caption": "a cat"}


def test_a_caption_that_arrives_after_its_deletion_and_a_pull_stays_out(world: World) -> None:
    task_id = world.add_task()
    other, created_other = submit(world, task_id, "a fox")
    number, created = submit(world, task_id, "a dog")
    deleted = delete(world, number)

    world.deliver(created_other, deleted)
    world.pull()
    world.deliver(created)

    assert world.captions() == {f"{other}/caption": "a fox"}
    world.pull()
    assert world.captions() == {f"{other}/caption": "a fox"}


def test_a_caption_whose_deletion_was_lost_goes_with_the_next_pull_also_if_it_arrives_after_one(world: World) -> None:
    task_id = world.add_task()
    other, created_other = submit(world, task_id, "a fox")
    number, created = submit(world, task_id, "a dog")
    delete(world, number)

    world.deliver(created_other)
    world.pull()
    world.deliver(created)
    world.pull()

    assert world.captions() == {f"{other}/caption": "a fox"}


def test_the_last_of_two_edits_counts_though_the_clock_was_set_back_between_them(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    first = update(world, number, "a cat")
    set_clock_back(world)
    second = update(world, number, "a fox")

    world.deliver(created, first, second)
    soonest_s = soonest_pull_s(world.redis)
    world.pull()

    assert world.captions() == {f"{number}/caption": "a fox"}
    assert soonest_s is not None
    assert soonest_s <= 10


def test_ordinary_events_bring_no_pull_forward(world: World) -> None:
    task_id = world.add_task()
    number, created = submit(world, task_id, "a dog")
    skipped = world.label_studio.skip(world.add_task())
    events = [created, world.event(), update(world, number, "a cat"), update(world, number, "")]
    events += [update(world, number, "a fox"), delete(world, skipped)]

    world.deliver(*events, events[-2])

    assert world.captions() == {f"{number}/caption": "a fox"}
    assert soonest_pull_s(world.redis) is None


def test_an_event_that_arrives_while_the_pull_reads_wins_over_what_was_read(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    world.deliver(created)

    def edit() -> None:
        world.deliver(update(world, number, "a cat"))

    world.during_pull = edit
    world.pull()
    assert world.captions() == {f"{number}/caption": "a cat"}
    world.pull()
    assert world.captions() == {f"{number}/caption": "a cat"}


def test_a_deletion_of_what_is_not_recorded_wins_over_the_pull_that_has_just_read_it(world: World) -> None:
    number, _ = submit(world, world.add_task(), "a dog")

    def take_back() -> None:
        world.deliver(delete(world, number))

    world.during_pull = take_back
    world.pull()

    assert world.captions() == {}


def test_what_a_pull_restores_is_as_it_was(world: World) -> None:
    task_id = world.add_task()
    number, created = submit(world, task_id, "a black dog")
    name = f"{number}/caption"
    world.deliver(created)
    world.store.exclude(world.project_id, name, "rude")
    correction = world.store.find(world.project_id, name)
    assert correction is not None
    world.store.attach_image_key(correction, "cd" * 32)
    before = world.records()
    world.redis.unlink(f"captioner:suggestions:{world.project_id}:{task_id}")

    world.deliver({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": number}], "project": created["project"]})
    assert world.records() == {}
    world.pull()

    assert world.records() == before
    assert world.store.excluded(world.project_id) == {name: "rude"}


def test_what_redis_lost_is_pulled_beside_the_predictions_of_label_studio(world: World) -> None:
    number, created = submit(world, world.add_task(), suggestion_for(IMAGE))
    world.deliver(created)
    before = world.records()[f"{number}/caption"]
    world.redis.flushdb()

    world.pull()

    after = world.records()[f"{number}/caption"]
    assert (after.proposed, after.model_version, after.outcome) == (before.proposed, VERSION, "accepted")
    assert replace(after, annotation_uid=before.annotation_uid, image_key=before.image_key) == before


def test_an_excluded_caption_is_forgotten_with_its_annotation_and_not_inherited_by_the_next_with_its_id(
    world: World,
) -> None:
    task_id = world.add_task()
    number, first = submit(world, task_id, "a dog")
    world.deliver(first)
    world.store.exclude(world.project_id, f"{number}/caption", "rude")
    delete(world, number)
    _, second = submit(world, task_id, "a cat", number)

    world.deliver(second)

    assert world.store.excluded(world.project_id) == {}


def test_an_annotation_that_cannot_be_read_harms_no_other_and_its_task_is_read_again(world: World) -> None:
    task_id = world.add_task()
    number, _ = submit(world, task_id, "a dog")
    broken, _ = submit(world, task_id, "a cat")
    right_time = world.label_studio.annotations[broken]["updated_at"]
    world.label_studio.annotations[broken]["updated_at"] = "0001-01-01T00:00:00+02:00"

    world.pull()
    assert world.captions() == {f"{number}/caption": "a dog"}
    world.label_studio.annotations[broken]["updated_at"] = right_time
    world.pull()

    assert world.captions() == {f"{number}/caption": "a dog", f"{broken}/caption": "a cat"}


def test_a_pull_that_finds_what_is_recorded_is_no_change_for_a_training(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    world.deliver(created, update(world, number, "a cat"))
    mark_trained(world.redis, world.project_id, claim(world.redis, world.project_id))

    assert world.pull().changed == 0

    assert read_waiting(world.redis, world.project_id).count == 0


def test_a_skip_is_no_reason_to_train_and_the_caption_that_it_replaces_must_be_trained_away(world: World) -> None:
    number, created = submit(world, world.add_task(), "a dog")
    world.label_studio.skip(world.add_task())
    world.deliver(created, world.event())
    mark_trained(world.redis, world.project_id, claim(world.redis, world.project_id))

    world.label_studio.update(number, texts(caption="a dog"), was_cancelled=True)
    assert world.deliver(world.event()) == 1

    assert read_waiting(world.redis, world.project_id).unclaimed == 1
    assert {record.outcome for record in world.records().values()} == {"skipped"}
