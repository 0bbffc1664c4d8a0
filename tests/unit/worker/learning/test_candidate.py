from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.factories import make_captioner
from worker.learning.candidate import ALPHAS, Judged, choose
from worker.learning.gate import Decision, Sample, Trial

NOTHING = Sample(candidate=(), serving=())
TRIAL = Trial(new=Sample(candidate=(1.0,), serving=(2.0,)), old=NOTHING, anchors=NOTHING)
CAPTIONER = make_captioner()

PASSES = Decision(publish=True, reason="The new model is better.")
FORGETS = Decision(publish=False, reason="Not published: the new model got worse on older captions.")
IRRELEVANT = Decision(publish=False, reason="Not published: new captions must fit.", is_about_corrections=True)


def judged(*decisions: Decision) -> Iterator[Judged]:
    for alpha, decision in zip(ALPHAS, decisions, strict=False):
        yield Judged(captioner=CAPTIONER, alpha=alpha, trial=TRIAL, decision=decision)


def test_the_whole_way_is_taken_if_it_passes() -> None:
    ways = judged(PASSES, PASSES, PASSES)

    chosen = choose(ways)

    assert (chosen.alpha, chosen.decision) == (1.0, PASSES)
    assert len(list(ways)) == 2, "the other parts are not even measured"


def test_the_first_part_of_the_way_that_passes_is_taken_and_the_decision_says_why_not_more() -> None:
    chosen = choose(judged(FORGETS, PASSES, PASSES))

    assert (chosen.alpha, chosen.decision.publish) == (0.6, True)
    assert chosen.decision.reason == (
        "The new model is better. This version uses 60% of the change that the training made. The full change was "
        "refused: the new model got worse on older captions."
    )


def test_if_no_part_passes_the_refusal_of_the_whole_stays() -> None:
    chosen = choose(judged(FORGETS, Decision(publish=False, reason="other"), Decision(publish=False, reason="other")))

    assert (chosen.alpha, chosen.decision) == (1.0, FORGETS)


def test_corrections_that_are_refused_are_not_tried_again_with_a_part_of_the_way() -> None:
    ways = judged(IRRELEVANT, PASSES, PASSES)

    assert choose(ways).decision == IRRELEVANT
    assert len(list(ways)) == 2


def test_without_a_new_caption_to_measure_on_no_part_of_the_way_is_tried() -> None:
    ways = (replace(way, trial=replace(TRIAL, new=NOTHING)) for way in judged(FORGETS, PASSES))

    assert choose(ways).decision == FORGETS


def test_without_a_candidate_there_is_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose(iter(()))
