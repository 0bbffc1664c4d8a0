from dataclasses import replace

import pytest

from worker.learning.gate import Decision, Sample, Trial, decide
from worker.learning.relevance import Relevance
from worker.learning.writing import Writing, Written

RELEVANT = Relevance(captions=16, won=0.94, chance=0.001)
IRRELEVANT = Relevance(captions=16, won=0.51, chance=0.4)


def make_sample(gain: float, count: int, spread: float = 0.1) -> Sample:
    """`count` captions whose mean loss is lower with the candidate by `gain` nats per word."""
    serving = [2.0 + 0.01 * number for number in range(count)]
    centre = (count - 1) / 2
    lost = [loss - gain + spread * (number - centre) for number, loss in enumerate(serving)]
    return Sample(candidate=tuple(lost), serving=tuple(serving))


def make_trial(new: float = 0.5, old: float = 0.0, anchors: float = 0.0, count: int = 4) -> Trial:
    return Trial(
        new=make_sample(new, count),
        old=make_sample(old, 8),
        anchors=make_sample(anchors, 20),
        relevance=RELEVANT,
        own=RELEVANT,
    )


def judge(trial: Trial, confidence: float = 0.8, tolerance: float = 0.3) -> Decision:
    return decide(trial, confidence=confidence, tolerance=tolerance)


def test_a_candidate_that_is_better_on_new_and_not_worse_on_old_is_published() -> None:
    decision = judge(make_trial(new=0.5, old=-0.1, anchors=-0.1))

    assert decision.publish
    assert decision.reason == (
        "The new model is better on new captions in 100% of random samples. Loss in nats per word, new model against "
        "served model: new captions 1.515 against 2.015 (4 captions), older captions 2.135 against 2.035 (8 captions), "
        "captions of the bundle 2.195 against 2.095 (20 captions)."
    )


@pytest.mark.parametrize("gain", [0.0, -0.5])
def test_a_candidate_that_is_not_better_on_new_is_refused(gain: float) -> None:
    decision = judge(make_trial(new=gain))

    assert not decision.publish
    assert decision.reason.startswith("Not published: the new model is better on new captions in only ")


@pytest.mark.parametrize(
    ("captions", "is_another", "is_published"),
    [(16, True, True), (8, True, False), (16, False, False)],
    ids=["another language", "too few show it", "the same language"],
)
def test_a_project_that_changes_its_language_gives_up_the_one_before(
    captions: int, is_another: bool, is_published: bool
) -> None:
    shown = replace(RELEVANT, captions=captions)
    trial = replace(make_trial(old=-5.0, anchors=-5.0), learned=shown, is_another_language=is_another)

    assert judge(trial).publish == is_published


def test_a_gain_that_four_captions_cannot_show_is_shown_by_forty() -> None:
    few, many = make_sample(0.05, 4, spread=0.2), make_sample(0.05, 40, spread=0.002)

    assert not judge(replace(make_trial(), new=few)).publish
    assert judge(replace(make_trial(), new=many)).publish


def test_certainty_is_a_threshold() -> None:
    trial = replace(make_trial(), new=make_sample(0.05, 4, spread=0.1))
    share = trial.new.share_of_draws(0.0)

    assert 0.5 < share < 1
    assert judge(trial, confidence=share - 0.01).publish
    assert not judge(trial, confidence=share + 0.01).publish


@pytest.mark.parametrize(
    ("old", "anchors", "where"), [(-0.5, 0.0, "older captions"), (0.0, -0.5, "captions of the bundle")]
)
def test_a_candidate_that_forgets_is_refused_however_good_on_new(old: float, anchors: float, where: str) -> None:
    trial = make_trial(new=2.0, old=old, anchors=anchors)

    assert judge(trial).reason.startswith(
        f"Not published: the new model got worse on {where} (limit 0.30 nats per word). "
    )
    assert not judge(trial).publish
    assert judge(trial, tolerance=0.6).publish


def test_captions_that_fit_other_images_as_well_are_refused_however_well_they_were_learned() -> None:
    decision = judge(replace(make_trial(new=3.0), relevance=IRRELEVANT))

    assert not decision.publish
    assert decision.reason.startswith("Not published: new captions must describe their own images. ")
    assert "only 51% of comparisons (16 captions; 50% is chance, and 94% is what the served model's" in decision.reason


def test_the_candidate_may_show_that_captions_have_a_meaning_which_the_served_version_cannot_read() -> None:
    unread = replace(make_trial(), relevance=IRRELEVANT)

    assert judge(replace(unread, learned=RELEVANT)).publish
    assert not judge(replace(unread, learned=replace(RELEVANT, captions=9))).publish


def make_writing(faulty: int) -> Writing:
    loop = Written(caption="a dog a dog", faults=("loop",))
    clean = Written(caption="a dog")
    candidate = (loop,) * faulty + (clean,) * (64 - faulty)
    return Writing(candidate=candidate, serving=(clean,) * 64, people=200, people_faulty=1)


def test_a_candidate_that_writes_more_faulty_captions_is_refused_however_well_it_reads() -> None:
    decision = judge(replace(make_trial(new=3.0), writing=make_writing(9)))

    assert not decision.publish
    assert not decision.is_about_corrections
    assert decision.reason.startswith(
        "Not published: the new model writes faulty captions for 9 of 64 images, the served model for 0. It writes "
        '"a dog a dog" (loop). '
    )


def test_a_candidate_that_writes_as_cleanly_as_before_is_published() -> None:
    assert judge(replace(make_trial(), writing=make_writing(2))).publish


def test_a_refusal_says_whether_another_candidate_of_the_training_may_pass() -> None:
    assert judge(replace(make_trial(), relevance=IRRELEVANT)).is_about_corrections
    assert not judge(make_trial(new=-1.0)).is_about_corrections
    assert not judge(make_trial(anchors=-1.0)).is_about_corrections


def test_a_version_that_cannot_tell_the_images_apart_judges_no_captions_of_them() -> None:
    assert judge(replace(make_trial(), relevance=IRRELEVANT, own=IRRELEVANT)).publish


def test_without_a_new_held_out_caption_nothing_old_may_become_worse() -> None:
    nothing = Sample(candidate=(), serving=())

    assert judge(replace(make_trial(), new=nothing)).publish
    assert not judge(replace(make_trial(anchors=-0.5), new=nothing)).publish
    assert judge(Trial(new=nothing, old=nothing, anchors=nothing)).reason.endswith(
        " No caption was held out to measure on."
    )


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["new", "old", "anchors"])
def test_a_loss_that_is_not_a_number_is_never_published(broken: float, where: str) -> None:
    sample = Sample(candidate=(1.0, broken), serving=(2.0, 2.0))

    trials = {
        "new": replace(make_trial(), new=sample),
        "old": replace(make_trial(), old=sample),
        "anchors": replace(make_trial(), anchors=sample),
    }

    assert not judge(trials[where]).publish


@pytest.mark.parametrize(
    ("trial", "plain"),
    [
        (make_trial(new=0.5), "Published: the new version fits recent captions better."),
        (make_trial(new=-0.5), "Not published: the new version does not clearly fit recent captions better."),
        (make_trial(old=-0.5), "Not published: it got worse on older captions."),
        (make_trial(new=float("nan")), "Not published: the training went wrong."),
    ],
)
def test_the_plain_reason_has_no_losses_and_no_statistics(trial: Trial, plain: str) -> None:
    assert judge(trial).plain == plain


def test_the_summary_of_a_sample_has_its_size() -> None:
    assert Sample(candidate=(), serving=()).summary() == {"captions": 0}
    assert Sample(candidate=(1.0, 2.0), serving=(2.0, 4.0)).summary() == {
        "captions": 2,
        "candidate": 1.5,
        "serving": 3.0,
        "better_in": 1.0,
    }
