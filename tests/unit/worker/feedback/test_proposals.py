"""The outcome of a suggestion, and the totals of outcomes."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.factories import make_correction, make_suggestion
from worker.feedback.proposals import find_proposal, judge
from worker.feedback.record import Feedback, Submission
from worker.feedback.suggestions import Suggestion
from worker.feedback.totals import ArmTally, Ledger, Tally, count_feedback

VERSION = "scenes-1a2b3c4d"


def make_submission(caption: str | None, **changes: Any) -> Submission:
    values: dict[str, Any] = {
        "project_id": 1,
        "task_id": 1,
        "annotation_id": 1,
        "control": "caption",
        "annotation_uid": "",
        "image_ref": "/data/upload/1/00000001-dog.jpg",
        "caption": caption,
        "annotator": 1,
        "origin": "manual",
        "lead_time_s": 2.0,
        "updated_at": "2025-01-31T12:00:00Z",
    }
    return Submission(**values | changes)


def judged(submission: Submission, suggestions: Sequence[Suggestion]) -> Feedback:
    return judge(submission, find_proposal(submission, suggestions))


def make_tally(**counts: Any) -> Tally:
    return Tally(**{"kinds": {}, "lead_times": {}} | counts)


def make_arm(*, captions: int, spectrum: dict[int, int]) -> ArmTally:
    return ArmTally(tally=make_tally(written=captions), spectrum=spectrum)


@pytest.mark.parametrize(
    ("caption", "outcome", "edits", "kinds"),
    [
        ("a dog runs fast", "accepted", 0, ()),
        ("a cat runs fast", "edited", 1, ("object",)),
        ("A dog runs fast.", "edited", 0, ("wording",)),
        ("fast runs a dog", "edited", 4, ("wording",)),  # all words are kept, in another order
        ("a dog sleeps", "edited", 2, ("object",)),  # half of our words are kept
        ("the dog sleeps", "rewritten", 3, ()),
    ],
)
def test_a_caption_is_accepted_edited_or_rewritten(
    caption: str, outcome: str, edits: int, kinds: tuple[str, ...]
) -> None:
    feedback = judged(make_submission(caption), [make_suggestion(caption="a dog runs fast")])

    assert (feedback.outcome, feedback.word_edits, feedback.kinds) == (outcome, edits, kinds)
    assert (feedback.arm, feedback.model_version, feedback.suggestion) == ("shown", VERSION, "a dog runs fast")


@pytest.mark.parametrize("changes", [{"origin": None}, {"origin": "manual", "lead_time_s": None}])
@pytest.mark.parametrize("withheld", [False, True])
def test_a_caption_by_a_script_says_nothing_about_suggestions(changes: dict[str, Any], withheld: bool) -> None:
    suggestion = make_suggestion(caption="a dog runs fast", withheld=withheld)

    feedback = judged(make_submission("a line of the old catalogue", **changes), [suggestion])

    assert (feedback.arm, feedback.outcome, feedback.model_version) == ("none", "written", None)
    assert feedback.image_key == suggestion.image_key


def test_an_annotation_that_was_made_of_a_prediction_is_accepted() -> None:
    submission = make_submission("a dog runs fast", origin=None, lead_time_s=None)

    assert judged(submission, [make_suggestion(caption="a dog runs fast")]).outcome == "accepted"


@pytest.mark.parametrize("named", [0, 1])  # what Label Studio says was in the field
def test_another_suggestion_of_the_same_version_is_an_alternative_whichever_was_proposed(named: int) -> None:
    newest_first = [make_suggestion(caption="a dog"), make_suggestion(caption="a cat")]
    submission = make_submission("a cat", origin="manual")

    feedback = judge(submission, find_proposal(submission, newest_first, newest_first[named]))

    assert (feedback.outcome, feedback.suggestion, feedback.word_edits) == ("alternative", "a dog", 1)


@pytest.mark.parametrize("change", [{"model_version": "v1-0"}, {"withheld": True}])
def test_a_suggestion_of_another_version_or_one_that_nobody_saw_is_no_alternative(change: dict[str, Any]) -> None:
    newest_first = [make_suggestion(caption="a dog"), make_suggestion(caption="a cat", **change)]

    feedback = judged(make_submission("a cat", origin="manual"), newest_first)

    assert feedback.outcome == "edited"


def test_a_caption_without_a_suggestion_is_written_and_compared_with_what_was_withheld() -> None:
    submission = make_submission("a black dog")

    alone = judged(submission, [])
    withheld = judged(submission, [make_suggestion(withheld=True)])

    assert (alone.outcome, alone.arm, alone.model_version, alone.word_edits) == ("written", "none", None, None)
    assert (withheld.outcome, withheld.arm, withheld.model_version) == ("written", "withheld", VERSION)
    assert (withheld.suggestion, withheld.word_edits, withheld.kinds) == ("a dog", 1, ())


@pytest.mark.parametrize(
    ("prefilled", "suggestions", "arm", "version"),
    [
        ("a dog", [make_suggestion()], "shown", VERSION),
        ("a dog", [make_suggestion(caption="a cat", model_version="v2-0"), make_suggestion()], "shown", VERSION),
        (None, [make_suggestion(model_version="v2-0"), make_suggestion()], "shown", "v2-0"),
        ("a dog", [], "shown", None),
        (None, [make_suggestion(withheld=True), make_suggestion(model_version="v1-0")], "withheld", VERSION),
        (None, [], "none", None),
    ],
)
def test_a_skip_says_what_was_skipped(
    prefilled: str | None, suggestions: Sequence[Suggestion], arm: str, version: str | None
) -> None:
    feedback = judged(make_submission(None, prefilled=prefilled), suggestions)

    assert (feedback.outcome, feedback.arm, feedback.model_version) == ("skipped", arm, version)
    assert (feedback.caption, feedback.word_edits) == (None, None)


def test_a_record_comes_back_whole_and_fields_of_a_later_version_are_read_past() -> None:
    feedback = make_correction(caption="一隻狗", proposed="一隻貓", lead_time_s=0.1 + 0.2)
    skip = judged(make_submission(None, prefilled="a dog"), [make_suggestion()])

    assert type(feedback).from_json(feedback.to_json(mood="good", kinds=feedback.kinds)) == feedback
    assert Feedback.from_json(skip.to_json()) == skip


def test_a_caption_of_a_million_words_is_compared_by_its_beginning() -> None:
    feedback = judged(make_submission("a dog " * 500_000), [make_suggestion()])

    assert 500 < (feedback.word_edits or 0) < 2000


def test_rates_are_shares_of_what_was_judged_and_unknown_before_anything_was() -> None:
    tally = make_tally(accepted=5, alternative=1, edited=3, rewritten=1, written=7, skipped=3)
    nothing = make_tally()

    assert (tally.judged, tally.captions) == (10, 17)
    assert (tally.accepted_rate, tally.alternative_rate) == (0.5, 0.1)
    assert (tally.edited_rate, tally.rewritten_rate) == (0.3, 0.1)
    assert tally.skipped_rate == 0.15
    assert (nothing.accepted_rate, nothing.skipped_rate, nothing.mean_word_edits) == (None, None, None)
    assert (nothing.changed_rate, nothing.mean_words, nothing.mean_lead_time_s) == (None, None, None)
    assert nothing.median_lead_time_s is None


def test_means_are_of_the_captions_they_are_known_of() -> None:
    tally = make_tally(edited=4, words=30, compared=3, unchanged=1, word_edits=6, timed=2, lead_time_ms=5000)

    assert (tally.mean_words, tally.mean_word_edits, tally.mean_lead_time_s) == (7.5, 2.0, 2.5)
    assert tally.changed_rate == pytest.approx(2 / 3)


def test_a_long_break_does_not_move_the_median_lead_time() -> None:
    lead_times: dict[int, int] = {}
    for lead_time_s in (8.0, 9.0, 10.0, 11.0, 36_000.0):
        counts = count_feedback(make_correction(lead_time_s=lead_time_s))
        [power] = [int(counter.removeprefix("took_")) for counter in counts if counter.startswith("took_")]
        lead_times[power] = lead_times.get(power, 0) + 1

    tally = make_tally(timed=5, lead_times=lead_times)

    assert tally.median_lead_time_s == pytest.approx(10.0, rel=0.05)


def test_distinct_words_compare_arms_of_different_sizes() -> None:
    # Of 4 captions "a" stands in all, "dog" and "cat" in 2 each, "fox" in 1.
    arm = make_arm(captions=4, spectrum={4: 1, 2: 2, 1: 1})
    twice = make_arm(captions=2, spectrum={2: 1, 1: 2})

    assert arm.distinct_words(1) == pytest.approx(1 + 2 * 0.5 + 0.25)
    assert arm.distinct_words(2) == pytest.approx(1 + 2 * (1 - 1 / 6) + 0.5)
    assert arm.distinct_words(4) == 4
    assert twice.distinct_words(2) == 3


@pytest.mark.parametrize(("shown", "withheld", "sample"), [(900, 250, 100), (900, 40, 40), (900, 0, 0)])
def test_words_are_compared_of_as_many_captions_of_each_arm(shown: int, withheld: int, sample: int) -> None:
    arms = {"shown": make_arm(captions=shown, spectrum={}), "withheld": make_arm(captions=withheld, spectrum={})}

    ledger = Ledger(versions={}, annotators={}, cells={}, **arms)

    assert ledger.vocabulary_sample == sample
    assert ledger.has_both_arms is (sample > 0)
