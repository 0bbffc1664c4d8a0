"""The store of feedback on a real Redis: what is kept, what waits for a training, what is excluded."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.factories import make_correction, store_annotation
from tests.redis_server import RedisServer
from worker.feedback.caption_changes import Generation, read_changes, read_generation
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.layout import run
from worker.feedback.record import Feedback
from worker.feedback.waiting import Waiting, claim, mark_trained, read_waiting, trained_number
from worker.redis_client import connect


@pytest.fixture
def store(redis: Redis) -> FeedbackStore:
    return FeedbackStore(redis)


def place(annotation_id: int, updated_at: str) -> dict[str, Any]:
    names = ("project_id", "task_id", "annotation_id", "annotation_uid", "control", "image_ref", "annotator")
    correction = make_correction(annotation_id=annotation_id, updated_at=updated_at)
    return {name: getattr(correction, name) for name in (*names, "lead_time_s", "updated_at")}


def waiting(store: FeedbackStore, project_id: int = 1) -> Waiting:
    return read_waiting(store.redis, project_id)


def at(second: int) -> str:
    return f"2025-01-31T12:00:{second:02d}Z"


def test_the_newest_state_of_an_annotation_is_kept_whatever_the_order(store: FeedbackStore) -> None:
    assert store_annotation(store.redis, make_correction(caption="first", updated_at=at(1))).is_new
    assert store_annotation(store.redis, make_correction(caption="third", updated_at=at(3))).is_new
    assert not store_annotation(store.redis, make_correction(caption="second", updated_at=at(2))).is_new

    assert [correction.caption for correction in store.corrections(1)] == ["third"]


def test_the_same_event_again_changes_nothing(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction())
    number = waiting(store).change_number

    assert not store_annotation(store.redis, make_correction()).is_new

    assert (waiting(store).change_number, waiting(store).count) == (number, 1)


def test_each_control_of_an_annotation_has_its_own_correction(store: FeedbackStore) -> None:
    english = make_correction(control="caption", caption="a dog")
    store_annotation(store.redis, english, make_correction(control="描述/中文:1", caption="一隻狗"))

    assert {correction.caption for correction in store.corrections(1)} == {"a dog", "一隻狗"}
    assert store.remove(1, annotation_ids=[1]).count == 2


def test_one_control_of_an_annotation_is_emptied_and_the_others_stay(store: FeedbackStore) -> None:
    both = [make_correction(control=control, updated_at=at(1)) for control in ("caption", "caption2", "other")]
    store_annotation(store.redis, *both)
    left = [make_correction(control=control, updated_at=at(2)) for control in ("caption2", "other")]

    assert store_annotation(store.redis, *left, emptied=("caption",)).removed == 1
    assert store_annotation(store.redis, *left, emptied=("caption",)).removed == 0

    assert {correction.control for correction in store.corrections(1)} == {"caption2", "other"}


def test_thousands_of_deleted_tasks_are_forgotten_at_once(store: FeedbackStore) -> None:
    for number in range(1, 301):
        store_annotation(store.redis, make_correction(annotation_id=number))

    assert store.remove(1, task_ids=range(1, 5001)).count == 300
    assert store.remove(1, task_ids=[]).count == 0

    assert store.corrections(1) == []


def test_projects_never_meet(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(project_id=1, caption="one"))
    store_annotation(store.redis, make_correction(project_id=11, caption="eleven"))

    assert store.remove(11, annotation_ids=[1]).count == 1

    assert [correction.caption for correction in store.corrections(1)] == ["one"]
    assert store.projects() == [1, 11]
    assert (waiting(store).count, waiting(store, 11).count) == (1, 0)


def test_a_deleted_annotation_is_gone_and_a_late_replay_does_not_bring_it_back(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=7, updated_at=at(2)))
    store_annotation(store.redis, make_correction(annotation_id=77))

    assert store.remove(1, annotation_ids=[7, 8]).count == 1

    assert not store_annotation(store.redis, make_correction(annotation_id=7, updated_at=at(1))).is_new
    assert not store_annotation(store.redis, make_correction(annotation_id=7, updated_at=at(2))).is_new
    assert [correction.annotation_id for correction in store.corrections(1)] == [77]


def test_an_annotation_that_was_skipped_and_taken_up_again_is_stored(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(updated_at=at(1)))
    store.remove(1, annotation_ids=[1])

    assert store_annotation(store.redis, make_correction(updated_at=at(2), caption="a cat")).is_new

    assert [correction.caption for correction in store.corrections(1)] == ["a cat"]


def test_corrections_are_found_by_their_names_without_skips_and_those_that_are_gone(store: FeedbackStore) -> None:
    for number in (1, 2, 3):
        store_annotation(store.redis, make_correction(annotation_id=number, updated_at=at(number)))
    store_annotation(store.redis, Feedback(**place(2, at(4)), caption=None, outcome="skipped"))
    store.remove(1, annotation_ids=[3])

    found = store.find_all(1, ["3/caption", "2/caption", "1/caption", "1/caption", "9/caption"])

    assert {name: correction.annotation_id for name, correction in found.items()} == {"1/caption": 1}
    assert store.find_all(1, []) == {}


def test_a_skip_removes_what_is_older_and_keeps_it_out(store: FeedbackStore) -> None:
    for number, second in ((1, 1), (2, 4)):
        store_annotation(store.redis, make_correction(annotation_id=number, updated_at=at(second)))

    skips = [Feedback(**place(number, at(3)), caption=None, outcome="skipped") for number in (1, 2)]
    assert [store_annotation(store.redis, skip).removed for skip in skips] == [1, 0]

    assert not store_annotation(store.redis, make_correction(annotation_id=1, updated_at=at(2))).is_new
    assert [correction.annotation_id for correction in store.corrections(1)] == [2]


def test_deleted_tasks_take_their_corrections_with_them_and_reused_ids_start_anew(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=1, task_id=5))
    store_annotation(store.redis, make_correction(annotation_id=2, task_id=5, updated_at=at(1)))
    store_annotation(store.redis, make_correction(annotation_id=3, task_id=55))

    assert store.remove(1, task_ids=[5, 6]).count == 2

    later = {"created_at": "2099-01-31T12:00:00Z", "updated_at": "2099-01-31T12:00:00Z", "annotation_uid": "another"}
    store_annotation(store.redis, make_correction(annotation_id=1, task_id=5, image_ref="/another.jpg", **later))
    assert {(c.annotation_id, c.image_ref) for c in store.corrections(1)} >= {(1, "/another.jpg")}
    assert len(store.corrections(1)) == 2


def test_an_annotation_that_moves_to_another_task_is_found_by_that_task_only(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(task_id=5, updated_at=at(1)))
    store_annotation(store.redis, make_correction(task_id=6, updated_at=at(2)))

    assert store.remove(1, task_ids=[5]).count == 0
    assert store.remove(1, task_ids=[6]).count == 1


def test_changes_wait_until_a_training_has_seen_them(store: FeedbackStore) -> None:
    for number in (1, 2, 3):
        store_annotation(store.redis, make_correction(annotation_id=number))
    trained = waiting(store).change_number
    store_annotation(store.redis, make_correction(annotation_id=4))

    mark_trained(store.redis, 1, trained)

    assert waiting(store).count == 1
    assert trained_number(store.redis, 1) == trained
    mark_trained(store.redis, 1, trained - 1)
    assert trained_number(store.redis, 1) == trained


def test_a_training_that_started_takes_its_changes_but_does_not_end_their_wait(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=1))
    assert waiting(store).unclaimed == 1

    taken = claim(store.redis, 1)
    store_annotation(store.redis, make_correction(annotation_id=2))

    assert taken < waiting(store).change_number
    assert (waiting(store).unclaimed, waiting(store).count) == (1, 2)


def test_removing_what_no_training_saw_leaves_nothing_to_do_and_what_one_saw_waits(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=1))
    mark_trained(store.redis, 1, claim(store.redis, 1))
    store_annotation(store.redis, make_correction(annotation_id=2))

    store.remove(1, annotation_ids=[2])
    assert waiting(store).count == 0
    store.remove(1, annotation_ids=[1])
    assert waiting(store).count == 1


def test_what_goes_while_a_training_runs_must_be_trained_away(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=1))
    taken = claim(store.redis, 1)
    store_annotation(store.redis, make_correction(annotation_id=2))  # the training may still read it

    store.remove(1, annotation_ids=[1, 2])
    mark_trained(store.redis, 1, taken)

    assert (waiting(store).count, waiting(store).unclaimed) == (2, 2)


def test_what_came_while_a_training_ran_and_goes_afterwards_must_be_trained_away(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(annotation_id=1))
    taken = claim(store.redis, 1)
    store_annotation(store.redis, make_correction(annotation_id=2))
    mark_trained(store.redis, 1, taken)

    store.remove(1, annotation_ids=[2])

    assert waiting(store).unclaimed == 1


def test_a_correction_that_was_trained_on_changed_and_removed_must_be_trained_away(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(updated_at=at(1)))
    mark_trained(store.redis, 1, claim(store.redis, 1))
    store_annotation(store.redis, make_correction(updated_at=at(2)))

    store.remove(1, annotation_ids=[1])

    assert waiting(store).unclaimed == 1


def test_ages_are_told_on_the_clock_of_redis(store: FeedbackStore, redis: Redis) -> None:
    assert (waiting(store).oldest_s, waiting(store).quiet_s) == (None, None)
    start_s, start_us = redis.time()

    store_annotation(store.redis, make_correction(annotation_id=1))
    store_annotation(store.redis, make_correction(annotation_id=2))

    newest, oldest = waiting(store).quiet_s, waiting(store).oldest_s
    end_s, end_us = redis.time()
    assert newest is not None
    assert oldest is not None
    assert 0 <= newest < oldest <= end_s - start_s + (end_us - start_us) / 1e6


def test_a_read_image_gives_its_key_to_the_correction_and_that_is_no_change(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(caption="一隻狗", lead_time_s=0.1 + 0.2))
    [correction] = store.corrections(1)
    number = waiting(store).change_number

    assert store.attach_image_key(correction, "ab" * 32)

    assert store.corrections(1) == [replace(correction, image_key="ab" * 32)]
    assert waiting(store).change_number == number
    assert not store.attach_image_key(correction, "cd" * 32)


def test_a_key_never_lands_on_a_correction_that_changed_meanwhile(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(updated_at=at(1)))
    [read] = store.corrections(1)
    store_annotation(store.redis, make_correction(updated_at=at(2), image_ref="/another.jpg"))

    assert not store.attach_image_key(read, "ab" * 32)
    assert store.corrections(1)[0].image_key is None


def test_writers_at_once_leave_the_newest_of_each_and_one_change_for_each_store(redis: Redis) -> None:
    states = [
        make_correction(annotation_id=number, updated_at=at(second), caption=f"{number} at {second}")
        for number in range(1, 6)
        for second in range(10)
    ]
    random.Random(3).shuffle(states)
    store = FeedbackStore(redis)

    with ThreadPoolExecutor(8) as pool:
        stored = sum(recorded.stored for recorded in pool.map(lambda state: store_annotation(redis, state), states))

    assert [correction.caption for correction in store.corrections(1)] == [f"{number} at 9" for number in range(1, 6)]
    assert 5 <= stored <= 50
    assert waiting(store).count == 5


def test_stored_means_durable_over_a_crash_of_redis(own_redis: RedisServer) -> None:
    store = FeedbackStore(own_redis.client())
    for number in range(1, 51):
        assert store_annotation(store.redis, make_correction(annotation_id=number)).is_new

    own_redis.kill()
    own_redis.start()

    assert len(store.corrections(1)) == 50
    assert waiting(store).count == 50


def test_a_redis_that_is_away_is_an_error_at_once(own_redis: RedisServer) -> None:
    store = FeedbackStore(connect(own_redis.url))
    store_annotation(store.redis, make_correction(annotation_id=1))
    own_redis.kill()

    with pytest.raises(RedisError):
        store_annotation(store.redis, make_correction(annotation_id=2))

    own_redis.start()
    assert store_annotation(store.redis, make_correction(annotation_id=2)).is_new


def test_what_is_excluded_stays_stored_and_is_a_change_as_is_its_use(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction())
    mark_trained(store.redis, 1, waiting(store).change_number)

    assert store.exclude(1, "1/caption", "rude")
    assert not store.exclude(1, "1/caption", "very rude")

    assert store.excluded(1) == {"1/caption": "very rude"}
    assert (len(store.corrections(1)), waiting(store).count) == (1, 1)
    mark_trained(store.redis, 1, waiting(store).change_number)
    assert store.include(1, "1/caption")
    assert not store.include(1, "1/caption")
    assert (store.excluded(1), waiting(store).count) == ({}, 1)


def test_a_switched_rule_of_wording_begins_a_generation_and_changes_no_caption(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction())
    before, waited = read_generation(store.redis, 1), waiting(store)

    number = run(store.redis, 1, "reword")

    assert read_generation(store.redis, 1) == Generation(number=number, names=before.names, reworded=number)
    assert (before.reworded, number) == (0, before.number + 1)
    assert not read_changes(store.redis, 1, before.number).captions
    assert waiting(store).count == waited.count


def test_what_is_not_there_cannot_be_excluded(store: FeedbackStore) -> None:
    assert not store.exclude(1, "1/caption", "rude")

    assert (store.excluded(1), waiting(store).count) == ({}, 0)


@pytest.mark.parametrize("automatic", [False, True])
def test_a_changed_correction_is_included_unless_a_person_had_set_it_aside(
    store: FeedbackStore, automatic: bool
) -> None:
    store_annotation(store.redis, make_correction(caption="first", updated_at=at(1)))
    store.exclude(1, "1/caption", "a reason", automatic=automatic)

    store_annotation(store.redis, make_correction(caption="second", updated_at=at(2)))
    store_annotation(store.redis, make_correction(caption="late", updated_at=at(1)))

    assert store.excluded(1) == ({} if automatic else {"1/caption": "a reason"})


def test_a_job_does_not_overrule_the_person_who_set_a_correction_aside(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(updated_at=at(1)))
    store.exclude(1, "1/caption", "it fails", automatic=True)
    store.exclude(1, "1/caption", "rude")
    store.exclude(1, "1/caption", "it fails", automatic=True)

    store_annotation(store.redis, make_correction(updated_at=at(2)))

    assert store.excluded(1) == {"1/caption": "rude"}


def test_a_correction_that_is_removed_is_not_excluded_any_more(store: FeedbackStore) -> None:
    store_annotation(store.redis, make_correction(updated_at=at(1)))
    store.exclude(1, "1/caption", "rude")

    store.remove(1, annotation_ids=[1])
    store_annotation(store.redis, make_correction(updated_at=at(2)))

    assert store.excluded(1) == {}
