"""The inbox on a real Redis."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.factories import make_correction
from tests.redis_server import RedisServer
from worker.feedback.corrections import CorrectionInbox
from worker.redis_client import connect


@pytest.fixture
def inbox(redis: Redis) -> CorrectionInbox:
    return CorrectionInbox(redis)


def at(second: int) -> str:
    return f"2025-01-31T12:00:{second:02d}Z"


def test_the_newest_state_of_an_annotation_is_kept_whatever_the_order(inbox: CorrectionInbox) -> None:
    assert inbox.store(make_correction(caption="first", updated_at=at(1)))
    assert inbox.store(make_correction(caption="third", updated_at=at(3)))
    assert not inbox.store(make_correction(caption="second", updated_at=at(2)))

    assert [correction.caption for correction in inbox.corrections(1)] == ["third"]


def test_the_same_event_again_changes_nothing(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction())
    number = inbox.change_number(1)

    assert not inbox.store(make_correction())

    assert (inbox.change_number(1), inbox.waiting(1)) == (number, 1)


def test_each_control_of_an_annotation_has_its_own_correction(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(control="caption", caption="a dog"))
    inbox.store(make_correction(control="描述/中文:1", caption="一隻狗"))

    assert {correction.caption for correction in inbox.corrections(1)} == {"a dog", "一隻狗"}
    assert inbox.remove(1, [1]) == 2


def test_one_control_of_an_annotation_is_emptied_and_the_others_stay(inbox: CorrectionInbox) -> None:
    for control in ("caption", "caption2", "other"):
        inbox.store(make_correction(control=control))

    assert inbox.remove_control(1, 1, "caption")
    assert not inbox.remove_control(1, 1, "caption")

    assert {correction.control for correction in inbox.corrections(1)} == {"caption2", "other"}


def test_thousands_of_deleted_tasks_are_forgotten_at_once(inbox: CorrectionInbox) -> None:
    for number in range(1, 301):
        inbox.store(make_correction(annotation_id=number))

    assert inbox.forget_tasks(1, range(1, 5001)) == 300
    assert inbox.forget_tasks(1, []) == 0

    assert inbox.corrections(1) == []


def test_projects_never_meet(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(project_id=1, caption="one"))
    inbox.store(make_correction(project_id=11, caption="eleven"))

    assert inbox.remove(11, [1]) == 1

    assert [correction.caption for correction in inbox.corrections(1)] == ["one"]
    assert inbox.projects() == [1, 11]
    assert (inbox.waiting(1), inbox.waiting(11)) == (1, 0)


def test_a_deleted_annotation_is_gone_and_a_late_replay_does_not_bring_it_back(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=7, updated_at=at(2)))
    inbox.store(make_correction(annotation_id=77))

    assert inbox.remove(1, [7, 8]) == 1

    assert not inbox.store(make_correction(annotation_id=7, updated_at=at(1)))
    assert not inbox.store(make_correction(annotation_id=7, updated_at=at(2)))
    assert [correction.annotation_id for correction in inbox.corrections(1)] == [77]


def test_an_annotation_that_was_skipped_and_taken_up_again_is_stored(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(updated_at=at(1)))
    inbox.remove(1, [1])

    assert inbox.store(make_correction(updated_at=at(2), caption="a cat"))

    assert [correction.caption for correction in inbox.corrections(1)] == ["a cat"]


def test_a_skip_removes_what_is_older_and_keeps_it_out(inbox: CorrectionInbox) -> None:
    for number, second in ((1, 1), (2, 4)):
        inbox.store(make_correction(annotation_id=number, updated_at=at(second)))
    skipped_at = make_correction(updated_at=at(3)).updated_at

    assert inbox.remove(1, [1, 2], skipped_at) == 1

    assert not inbox.store(make_correction(annotation_id=1, updated_at=at(2)))
    assert [correction.annotation_id for correction in inbox.corrections(1)] == [2]


def test_deleted_tasks_take_their_corrections_with_them_and_reused_ids_start_anew(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=1, task_id=5))
    inbox.store(make_correction(annotation_id=2, task_id=5, updated_at=at(1)))
    inbox.store(make_correction(annotation_id=3, task_id=55))

    assert inbox.forget_tasks(1, [5, 6]) == 2

    inbox.store(make_correction(annotation_id=1, task_id=5, image_ref="/another.jpg", updated_at=at(2)))
    assert {(c.annotation_id, c.image_ref) for c in inbox.corrections(1)} >= {(1, "/another.jpg")}
    assert len(inbox.corrections(1)) == 2


def test_an_annotation_that_moves_to_another_task_is_found_by_that_task_only(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(task_id=5, updated_at=at(1)))
    inbox.store(make_correction(task_id=6, updated_at=at(2)))

    assert inbox.forget_tasks(1, [5]) == 0
    assert inbox.forget_tasks(1, [6]) == 1


def test_changes_wait_until_a_training_has_seen_them(inbox: CorrectionInbox) -> None:
    for number in (1, 2, 3):
        inbox.store(make_correction(annotation_id=number))
    seen = inbox.change_number(1)
    inbox.store(make_correction(annotation_id=4))

    inbox.mark_trained(1, seen)

    assert inbox.waiting(1) == 1
    assert inbox.trained_number(1) == seen
    inbox.mark_trained(1, seen - 1)
    assert inbox.trained_number(1) == seen


def test_a_training_that_started_takes_its_changes_but_does_not_end_their_wait(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=1))
    assert inbox.untaken(1) == 1

    taken = inbox.take(1)
    inbox.store(make_correction(annotation_id=2))

    assert taken < inbox.change_number(1)
    assert (inbox.untaken(1), inbox.waiting(1)) == (1, 2)


def test_removing_what_no_training_saw_leaves_nothing_to_do_and_what_one_saw_waits(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=1))
    inbox.mark_trained(1, inbox.take(1))
    inbox.store(make_correction(annotation_id=2))

    inbox.remove(1, [2])
    assert inbox.waiting(1) == 0
    inbox.remove(1, [1])
    assert inbox.waiting(1) == 1


def test_what_goes_while_a_training_runs_must_be_trained_away(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=1))
    taken = inbox.take(1)
    inbox.store(make_correction(annotation_id=2))  # the training may still read it

    inbox.remove(1, [1, 2])
    inbox.mark_trained(1, taken)

    assert (inbox.waiting(1), inbox.untaken(1)) == (2, 2)


def test_what_came_while_a_training_ran_and_goes_afterwards_must_be_trained_away(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(annotation_id=1))
    taken = inbox.take(1)
    inbox.store(make_correction(annotation_id=2))
    inbox.mark_trained(1, taken)

    inbox.remove(1, [2])

    assert inbox.untaken(1) == 1


def test_a_correction_that_was_trained_on_changed_and_removed_must_be_trained_away(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(updated_at=at(1)))
    inbox.mark_trained(1, inbox.take(1))
    inbox.store(make_correction(updated_at=at(2)))

    inbox.remove(1, [1])

    assert inbox.untaken(1) == 1


def test_ages_are_told_on_the_clock_of_redis(inbox: CorrectionInbox, redis: Redis) -> None:
    assert (inbox.oldest_waiting_s(1), inbox.quiet_s(1)) == (None, None)
    start_s, start_us = redis.time()

    inbox.store(make_correction(annotation_id=1))
    inbox.store(make_correction(annotation_id=2))

    newest, oldest = inbox.quiet_s(1), inbox.oldest_waiting_s(1)
    end_s, end_us = redis.time()
    assert newest is not None
    assert oldest is not None
    assert 0 <= newest < oldest <= end_s - start_s + (end_us - start_us) / 1e6


def test_a_read_image_gives_its_key_to_the_correction_and_that_is_no_change(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(caption="一隻狗", lead_time_s=0.1 + 0.2))
    [correction] = inbox.corrections(1)
    number = inbox.change_number(1)

    assert inbox.attach_image_key(correction, "ab" * 32)

    assert inbox.corrections(1) == [replace(correction, image_key="ab" * 32)]
    assert inbox.change_number(1) == number
    assert not inbox.attach_image_key(correction, "cd" * 32)


def test_a_key_never_lands_on_a_correction_that_changed_meanwhile(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(updated_at=at(1)))
    [read] = inbox.corrections(1)
    inbox.store(make_correction(updated_at=at(2), image_ref="/another.jpg"))

    assert not inbox.attach_image_key(read, "ab" * 32)
    assert inbox.corrections(1)[0].image_key is None


def test_writers_at_once_leave_the_newest_of_each_and_one_change_for_each_store(redis: Redis) -> None:
    states = [
        make_correction(annotation_id=number, updated_at=at(second), caption=f"{number} at {second}")
        for number in range(1, 6)
        for second in range(10)
    ]
    random.Random(3).shuffle(states)
    inbox = CorrectionInbox(redis)

    with ThreadPoolExecutor(8) as pool:
        stored = sum(pool.map(inbox.store, states))

    assert [correction.caption for correction in inbox.corrections(1)] == [f"{number} at 9" for number in range(1, 6)]
    assert 5 <= stored <= 50
    assert inbox.waiting(1) == 5


def test_stored_means_durable_over_a_crash_of_redis(own_redis: RedisServer) -> None:
    inbox = CorrectionInbox(own_redis.client())
    for number in range(1, 51):
        assert inbox.store(make_correction(annotation_id=number))

    own_redis.kill()
    own_redis.start()

    assert len(inbox.corrections(1)) == 50
    assert inbox.waiting(1) == 50


def test_a_redis_that_is_away_is_an_error_at_once(own_redis: RedisServer) -> None:
    inbox = CorrectionInbox(connect(own_redis.url))
    inbox.store(make_correction(annotation_id=1))
    own_redis.kill()

    with pytest.raises(RedisError):
        inbox.store(make_correction(annotation_id=2))

    own_redis.start()
    assert inbox.store(make_correction(annotation_id=2))


def test_what_is_set_aside_stays_stored_and_is_a_change_as_is_its_use(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction())
    inbox.mark_trained(1, inbox.change_number(1))

    assert inbox.set_aside(1, "1/caption", "rude")
    assert not inbox.set_aside(1, "1/caption", "very rude")

    assert inbox.set_aside_names(1) == {"1/caption": "very rude"}
    assert (len(inbox.corrections(1)), inbox.waiting(1)) == (1, 1)
    inbox.mark_trained(1, inbox.change_number(1))
    assert inbox.use_again(1, "1/caption")
    assert not inbox.use_again(1, "1/caption")
    assert (inbox.set_aside_names(1), inbox.waiting(1)) == ({}, 1)


def test_what_is_not_there_cannot_be_set_aside(inbox: CorrectionInbox) -> None:
    assert not inbox.set_aside(1, "1/caption", "rude")

    assert (inbox.set_aside_names(1), inbox.waiting(1)) == ({}, 0)


@pytest.mark.parametrize("by_job", [False, True])
def test_a_changed_correction_is_used_again_unless_a_person_had_set_it_aside(
    inbox: CorrectionInbox, by_job: bool
) -> None:
    inbox.store(make_correction(caption="first", updated_at=at(1)))
    inbox.set_aside(1, "1/caption", "a reason", by_job=by_job)

    inbox.store(make_correction(caption="second", updated_at=at(2)))
    inbox.store(make_correction(caption="late", updated_at=at(1)))

    assert inbox.set_aside_names(1) == ({} if by_job else {"1/caption": "a reason"})


def test_a_job_does_not_overrule_the_person_who_set_a_correction_aside(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(updated_at=at(1)))
    inbox.set_aside(1, "1/caption", "it fails", by_job=True)
    inbox.set_aside(1, "1/caption", "rude")
    inbox.set_aside(1, "1/caption", "it fails", by_job=True)

    inbox.store(make_correction(updated_at=at(2)))

    assert inbox.set_aside_names(1) == {"1/caption": "rude"}


def test_a_correction_that_is_removed_is_not_set_aside_any_more(inbox: CorrectionInbox) -> None:
    inbox.store(make_correction(updated_at=at(1)))
    inbox.set_aside(1, "1/caption", "rude")

    inbox.remove(1, [1])
    inbox.store(make_correction(updated_at=at(2)))

    assert inbox.set_aside_names(1) == {}
