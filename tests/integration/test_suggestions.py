"""The log of suggestions on a real Redis."""

from typing import Any

import pytest
from redis import Redis

from tests.factories import make_suggestion
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.suggestions import Suggestion, SuggestionLog
from worker.feedback.totals import read_ledger


@pytest.fixture
def log(redis: Redis) -> SuggestionLog:
    return SuggestionLog(redis)


def find(log: SuggestionLog, **changes: Any) -> list[Suggestion]:
    wanted = make_suggestion(**changes)
    return log.find(wanted.project_id, wanted.task_id, wanted.control, wanted.image_ref)


def test_suggestions_come_back_whole_and_newest_first(log: SuggestionLog) -> None:
    first, second = make_suggestion(), make_suggestion(model_version="v2-11111111", caption="一隻狗", score=1 / 3)

    log.remember([first])
    log.remember([second])

    assert find(log) == [second, first]


def test_a_suggestion_is_found_only_where_it_was_made(log: SuggestionLog) -> None:
    log.remember([make_suggestion()])

    assert find(log, project_id=2) == []
    assert find(log, task_id=6, image_ref=make_suggestion().image_ref) == []
    assert find(log, control="other") == []


def test_a_task_id_that_is_reused_for_another_image_does_not_find_the_old_suggestion(log: SuggestionLog) -> None:
    log.remember([make_suggestion()])

    assert find(log, image_ref="/data/upload/1/cat.jpg") == []


def test_the_same_suggestion_again_is_kept_once_and_is_the_newest(log: SuggestionLog, redis: Redis) -> None:
    first, second = make_suggestion(), make_suggestion(model_version="v2-11111111")

    log.remember([first, second, first, first])

    assert find(log) == [first, second]
    assert redis.llen("captioner:suggestions:1:1") == 2


def test_memory_is_bounded_in_number_and_time_and_an_image_inside_the_task_is_not_kept(
    log: SuggestionLog, redis: Redis
) -> None:
    image_ref = "data:image/png;base64," + "A" * 100_000

    log.remember([make_suggestion(model_version=f"v{i}-00000000", image_ref=image_ref) for i in range(100)])

    suggestions = find(log, image_ref=image_ref)
    assert [suggestion.model_version for suggestion in suggestions][:2] == ["v99-00000000", "v98-00000000"]
    assert len(suggestions) == 20
    assert (redis.memory_usage("captioner:suggestions:1:1") or 0) < 20_000
    assert 0 < redis.ttl("captioner:suggestions:1:1") <= 180 * 24 * 3600


def test_deleted_tasks_are_forgotten(log: SuggestionLog, redis: Redis) -> None:
    log.remember([make_suggestion(task_id=5), make_suggestion(task_id=6)])

    FeedbackStore(redis).remove(1, task_ids=[5])
    FeedbackStore(redis).remove(1, task_ids=[])

    assert find(log, task_id=5) == []
    assert len(find(log, task_id=6)) == 1


def test_a_task_counts_once_as_shown_for_each_version_and_control(log: SuggestionLog, redis: Redis) -> None:
    best, other = make_suggestion(), make_suggestion(caption="a cat")

    log.remember([other, best])
    log.remember([other, best])
    log.remember([make_suggestion(caption="a fox")])
    log.remember([make_suggestion(task_id=2), make_suggestion(control="title"), make_suggestion(model_version="v2-0")])

    versions = read_ledger(redis, 1).versions
    assert {version: tally.tasks for version, tally in versions.items()} == {"scenes-1a2b3c4d": 3, "v2-0": 1}


def test_what_was_withheld_does_not_count_as_shown(log: SuggestionLog, redis: Redis) -> None:
    log.remember([make_suggestion(withheld=True), make_suggestion(task_id=2)])

    ledger = read_ledger(redis, 1)
    assert (ledger.shown.tally.tasks, ledger.withheld.tally.tasks) == (1, 1)
    assert [suggestion.withheld for suggestion in find(log)] == [True]


def test_another_image_under_a_reused_task_id_counts_as_shown_again(log: SuggestionLog, redis: Redis) -> None:
    log.remember([make_suggestion()])
    log.remember([make_suggestion(image_ref="/another.jpg")])

    assert read_ledger(redis, 1).shown.tally.tasks == 2
