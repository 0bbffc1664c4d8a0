"""The ledger on a real Redis: what annotators do ends in the same totals, whatever the order."""

import csv
import io
import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.cli import main
from model.store import Store
from tests.factories import make_correction, make_suggestion
from tests.redis_server import RedisServer
from worker.feedback.feedback_store import FeedbackStore, Recorded
from worker.feedback.record import AnnotationState, Submission
from worker.feedback.score_calibration import Calibration, write_calibration
from worker.feedback.suggestions import Suggestion, SuggestionLog
from worker.feedback.totals import Acceptance, Ledger, Tally, read_acceptance, read_ledger, read_weeks

VERSION = "scenes-1a2b3c4d"
SHOWN = make_suggestion(caption="a dog runs")


@pytest.fixture
def store(redis: Redis) -> FeedbackStore:
    return FeedbackStore(redis)


def at(second: int) -> str:
    return f"2025-01-31T12:00:{second:02d}Z"


@dataclass(frozen=True)
class Given:
    """A submission of an annotator, and the suggestions for it."""

    submission: Submission
    suggestions: tuple[Suggestion, ...]

    def changed(self, **changes: Any) -> "Given":
        return replace(self, submission=replace(self.submission, **changes))


def submitted(caption: str, *suggestions: Suggestion, **changes: Any) -> Given:
    """Return a submission beside the suggestion "a dog runs"."""
    return given(caption, *(suggestions or [SHOWN]), origin="prediction-changed", **changes)


def written(caption: str = "a black dog", *suggestions: Suggestion, **changes: Any) -> Given:
    return given(caption, *suggestions, origin="manual", **changes)


def skipped(**changes: Any) -> Given:
    return given(None, SHOWN, prefilled=SHOWN.caption, **{"lead_time_s": 1.0} | changes)


def given(caption: str | None, *suggestions: Suggestion, **changes: Any) -> Given:
    names = ("project_id", "task_id", "annotation_id", "annotation_uid", "control", "image_ref", "annotator")
    taken = {name: value for name, value in changes.items() if name in {"annotation_id", "task_id", "project_id"}}
    values = {name: getattr(make_correction(**taken), name) for name in (*names, "lead_time_s", "updated_at")}
    return Given(Submission(**values | {"caption": caption} | changes), suggestions)


def put(store: FeedbackStore, *controls: Given, **changes: Any) -> Recorded:
    """Store an annotation as a webhook does."""
    names = ("project_id", "task_id", "annotation_id", "annotation_uid", "created_at", "updated_at")
    place: dict[str, Any] = {name: getattr(controls[0].submission, name) for name in names}
    state = AnnotationState(**place | {"submissions": tuple(given.submission for given in controls)} | changes)
    return store.record(state, {given.submission.control: given.suggestions for given in controls})


def of_version(redis: Redis, version: str | None = VERSION) -> Tally:
    return read_ledger(redis, 1).versions[version]


def is_empty(redis: Redis) -> bool:
    """Say whether nothing is left of the records and their totals."""
    return redis.keys("captioner:ledger*:1") == [] and redis.exists("captioner:feedback:1", "captioner:index:1") == 0


def test_every_outcome_is_counted_by_version_and_annotator(store: FeedbackStore, redis: Redis) -> None:
    other = replace(SHOWN, caption="a cat runs")
    put(store, submitted("a dog runs", annotation_id=1, lead_time_s=2.0))
    put(store, submitted("a cat runs", SHOWN, other, annotation_id=2, lead_time_s=None))
    put(store, submitted("a red dog runs", annotation_id=3, annotator=2, lead_time_s=4.0))
    put(store, submitted("nothing of it", annotation_id=4, annotator=2, lead_time_s=6.0))
    put(store, skipped(annotation_id=5, annotator=2))
    put(store, written(annotation_id=6))

    ledger = read_ledger(redis, 1)
    tally = ledger.versions[VERSION]
    assert (tally.accepted, tally.alternative, tally.edited, tally.rewritten, tally.skipped) == (1, 1, 1, 1, 1)
    assert (tally.word_edits, tally.compared, tally.unchanged, tally.words) == (0 + 1 + 1 + 3, 4, 1, 3 + 3 + 4 + 3)
    assert tally.kinds == {"object": 0, "attribute": 1, "count": 0, "relation": 0, "background": 0, "wording": 0}
    assert (tally.mean_lead_time_s, tally.timed) == (4.0, 3)
    assert (ledger.versions[None].written, ledger.versions[None].judged) == (1, 0)
    assert {who: (tally.judged, tally.skipped) for who, tally in ledger.annotators.items()} == {1: (2, 0), 2: (2, 1)}
    assert ledger.cells[2, VERSION] == ledger.annotators[2]


def test_each_week_counts_the_words_that_suggestions_saved(store: FeedbackStore, redis: Redis) -> None:
    on_monday, on_sunday, a_week_later = "2025-01-27T00:00:00Z", "2025-02-02T23:59:59Z", "2025-02-03T00:00:00Z"
    put(store, submitted("a dog runs", annotation_id=1, updated_at=on_monday))
    put(store, submitted("a red dog runs", annotation_id=2, updated_at=on_sunday))
    put(store, submitted("a cat runs", annotation_id=3, updated_at=a_week_later))
    put(store, written("a cat on a mat", annotation_id=4, updated_at=a_week_later))
    put(store, skipped(annotation_id=5, updated_at="2025-02-10T00:00:00Z"))

    newest, oldest = read_weeks(redis, 1)

    assert (newest.monday, newest.captions, newest.alone.mean_words) == ("2025-02-03", 2, 5)
    assert newest.shown.mean_word_edits == 1
    assert newest.saved_rate == pytest.approx(2 / 3)
    assert (oldest.monday, oldest.captions, oldest.shown.accepted_rate) == ("2025-01-27", 2, 0.5)
    assert oldest.shown.mean_word_edits == 0.5
    assert oldest.saved_rate == pytest.approx(6 / 7)


def test_a_caption_that_is_changed_in_another_week_counts_there(store: FeedbackStore, redis: Redis) -> None:
    put(store, submitted("a cat runs", updated_at="2025-01-27T12:00:00Z"))
    put(store, submitted("a dog runs", updated_at="2025-02-03T12:00:00Z"))

    [week] = read_weeks(redis, 1)

    assert (week.monday, week.shown.accepted, week.saved_rate) == ("2025-02-03", 1, 1)


def test_the_same_event_again_changes_nothing(store: FeedbackStore, redis: Redis) -> None:
    assert put(store, submitted("a cat runs")).is_new
    before = read_ledger(redis, 1)

    assert not put(store, submitted("a cat runs")).is_new

    assert read_ledger(redis, 1) == before


def test_an_update_takes_the_place_of_what_it_updates_and_an_older_state_does_not(
    store: FeedbackStore, redis: Redis
) -> None:
    put(store, submitted("a red dog runs", updated_at=at(1)))
    assert put(store, submitted("two dogs run", updated_at=at(3))).is_new
    assert not put(store, submitted("a dog runs", updated_at=at(2))).is_new

    tally = of_version(redis)
    assert (tally.judged, tally.edited, tally.rewritten) == (1, 0, 1)
    assert [record.caption for record in store.records(1)] == ["two dogs run"]


def test_an_annotation_that_was_skipped_and_taken_up_again_is_no_skip(store: FeedbackStore, redis: Redis) -> None:
    put(store, skipped(updated_at=at(1)))
    assert of_version(redis).skipped == 1

    put(store, submitted("a dog runs", updated_at=at(2)))

    assert (of_version(redis).skipped, of_version(redis).accepted) == (0, 1)


@pytest.mark.parametrize("left", [submitted("a red dog runs"), skipped()], ids=["edited", "skipped"])
def test_a_removed_annotation_leaves_no_trace_and_a_late_replay_does_not_bring_it_back(
    store: FeedbackStore, redis: Redis, left: Given
) -> None:
    put(store, left)
    put(store, left.changed(annotation_id=11))

    store.remove(1, annotation_ids=[1, 7])
    assert [record.annotation_id for record in store.records(1)] == [11]
    assert not put(store, left).is_new
    store.remove(1, annotation_ids=[11])

    assert is_empty(redis)


def test_one_control_leaves_and_the_other_stays(store: FeedbackStore, redis: Redis) -> None:
    controls = [submitted("a dog runs", control=control) for control in ("caption", "caption2", "描述/中文:1")]
    put(store, *controls)

    assert put(store, *(left.changed(updated_at=at(30)) for left in controls[1:]), emptied=("caption",)).removed == 1

    assert [record.control for record in store.records(1)] == ["caption2", "描述/中文:1"]
    assert of_version(redis).accepted == 2


def test_deleted_tasks_leave_with_their_annotations(store: FeedbackStore, redis: Redis) -> None:
    put(store, submitted("a dog runs", annotation_id=1, task_id=5))
    put(store, submitted("a cat runs", annotation_id=2, task_id=5))
    put(store, submitted("a fox runs", annotation_id=3, task_id=55))

    assert store.remove(1, task_ids=[5, 6]).count == 2

    assert of_version(redis).judged == 1


def test_a_caption_of_ever_new_words_is_counted_and_taken_out_again(store: FeedbackStore, redis: Redis) -> None:
    """Each Chinese character is a word of its own."""
    assert put(store, submitted("".join(map(chr, range(0x4E00, 0x9000))))).is_new
    assert read_ledger(redis, 1).shown.distinct_words(1) == of_version(redis).words == 2000

    store.remove(1, annotation_ids=[1])

    assert is_empty(redis)


def test_projects_never_meet(store: FeedbackStore, redis: Redis) -> None:
    put(store, submitted("a dog runs", project_id=1))
    put(store, submitted("a cat runs", project_id=11))

    store.remove(11, annotation_ids=[1])

    assert of_version(redis).accepted == 1
    assert read_ledger(redis, 11).versions == {}


def test_totals_are_those_of_the_records_that_are_left_after_any_history(store: FeedbackStore, redis: Redis) -> None:
    """A thousand random events, against the last state of each annotation alone, in another project."""
    draw = random.Random(7)
    left: dict[int, Given] = {}
    for _ in range(1000):
        drawn = drawn_submission(draw)
        number = drawn.submission.annotation_id
        if draw.random() < 0.02:
            store.remove(1, annotation_ids=[number])
            left.pop(number, None)
        elif put(store, drawn).is_new:
            left[number] = drawn

    for drawn in left.values():
        put(store, drawn.changed(project_id=2))

    assert len(left) > 10
    assert read_ledger(redis, 1) == read_ledger(redis, 2)
    assert redis.hgetall("captioner:ledger-words:1") == redis.hgetall("captioner:ledger-words:2")
    store.remove(1, annotation_ids=left)
    assert is_empty(redis)


def drawn_submission(draw: random.Random) -> Given:
    """An edit, a caption beside a withheld one, or a skip, of one of 40 annotations at some time."""
    place: dict[str, Any] = {
        "annotation_id": draw.randint(1, 40),
        "annotator": draw.randint(1, 3),
        "updated_at": at(draw.randint(0, 59)),
    }
    if draw.random() < 0.2:
        return skipped(**place)
    suggestion = replace(SHOWN, withheld=draw.random() < 0.3, model_version=f"v{draw.randint(1, 2)}-0")
    caption = " ".join(draw.choices(("a", "red", "dog", "runs", "on", "grass", "two"), k=draw.randint(1, 6)))
    return written(caption, suggestion, **place)


def test_the_arms_are_told_apart_and_versions_count_what_was_shown(store: FeedbackStore, redis: Redis) -> None:
    withheld = replace(SHOWN, withheld=True)
    SuggestionLog(redis).remember([SHOWN, replace(SHOWN, task_id=2, withheld=True)])
    put(store, submitted("a dog runs"))
    put(store, written("two brown dogs run", withheld, annotation_id=2, annotator=9))

    ledger = read_ledger(redis, 1)

    assert (ledger.shown.tally.captions, ledger.withheld.tally.captions) == (1, 1)
    assert (ledger.shown.tally.changed_rate, ledger.withheld.tally.changed_rate) == (0.0, 1.0)
    assert (ledger.shown.distinct_words(1), ledger.withheld.distinct_words(1)) == (3, 4)
    assert (ledger.shown.tally.tasks, ledger.withheld.tally.tasks) == (1, 1)
    assert ledger.versions[VERSION].captions == 1
    assert set(ledger.annotators) == {1}
    assert ledger.has_both_arms


def test_versions_come_in_the_order_of_their_numbers(store: FeedbackStore, redis: Redis) -> None:
    versions = ["v10-00000000", "v2-00000000", "photos-1a2b3c4d"]
    for number, version in enumerate(versions, start=1):
        shown = replace(SHOWN, model_version=version)
        put(store, submitted("a cat runs", shown, annotation_id=number))
    put(store, written(annotation_id=9))

    assert list(read_ledger(redis, 1).versions) == ["photos-1a2b3c4d", "v2-00000000", "v10-00000000", None]


def test_two_versions_are_compared_by_one_small_question(store: FeedbackStore, redis: Redis) -> None:
    put(store, submitted("a dog runs", annotation_id=1))
    put(store, submitted("a cat runs", annotation_id=2))
    put(store, skipped(annotation_id=3))

    with redis.monitor() as watched:
        acceptance = read_acceptance(redis, 1, [VERSION, "v2-00000000"])
        redis.echo("done")
        commands = list(iter(lambda: watched.next_command()["command"].split(" ")[0], "ECHO"))

    assert acceptance == {
        VERSION: Acceptance(accepted=1, judged=2, word_edits=1, compared=2),
        "v2-00000000": Acceptance(accepted=0, judged=0, word_edits=0, compared=0),
    }
    assert [command for command in commands if command not in {"HELLO", "CLIENT"}] == ["HMGET"]
    assert read_acceptance(redis, 1, []) == {}


def test_an_empty_project_has_an_empty_ledger(redis: Redis) -> None:
    ledger = read_ledger(redis, 1)

    assert isinstance(ledger, Ledger)
    assert (ledger.versions, ledger.annotators, ledger.has_both_arms) == ({}, {}, False)
    assert (ledger.shown.tally.captions, ledger.withheld.tally.captions) == (0, 0)


def test_the_command_prints_tables_json_and_csv(
    store: FeedbackStore,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path))
    calibration = Calibration(intercept=0.1, slope=0.9, per_length=-0.2, judged=240, error=0.041, error_before=0.18)
    write_calibration(Store(tmp_path), 1, calibration)
    put(store, submitted("a dog runs"))
    put(store, submitted("=a cat runs", annotation_id=2))

    printed = {}
    for form in ("", "--json", "--csv"):
        assert main(["ledger", "1", *filter(None, [form])]) == 0
        printed[form] = capsys.readouterr().out

    assert re.search(rf"^{VERSION} +0 +2 +50\.0% +0\.0% +50\.0%", printed[""], re.MULTILINE)
    assert "withheld" not in printed[""]
    assert "Expected calibration error: 4.1%" in printed[""]
    assert json.loads(printed["--json"])["versions"][0]["edited"] == 1
    rows = list(csv.DictReader(io.StringIO(printed["--csv"])))
    assert [row["outcome"] for row in rows] == ["accepted", "edited"]
    assert [row["caption"] for row in rows] == ["a dog runs", "'=a cat runs"]


def test_the_command_compares_the_arms_once_suggestions_are_hidden(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path))
    monkeypatch.setenv("HIDE_SUGGESTIONS_SHARE", "10")

    assert main(["ledger", "1"]) == 0

    assert re.search(r"^captions +0 +0$", capsys.readouterr().out, re.MULTILINE)


def test_the_command_says_when_redis_is_away(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    own_redis.kill()

    assert main(["ledger", "1"]) == 2

    assert f"no Redis answers at {own_redis.url}" in capsys.readouterr().err
