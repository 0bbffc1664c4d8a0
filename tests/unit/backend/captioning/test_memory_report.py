"""What the memory has learned, in sentences."""

from typing import Any

import pytest

from backend.captioning.judgement import Judgement
from backend.captioning.memory_report import MemoryReport, learned_sentence
from model.memory.evidence import Evidence
from model.memory.experiment import Experiment

GAINS: dict[str, Any] = {"chance": 0.001, "gain": 0.12, "gains_in": 0.97, "alikeness": 0.05}
"""Of photos that the bundle knows, with captions that are worth using."""


def make_judgement(*, rows: int = 57, **changes: Any) -> Judgement:
    """A judgement that follows from its evidence; without changes there is no evidence, and it is closed."""
    evidence = Evidence(**{"corrections": rows, "readable": 0.9} | changes) if len(changes) > 1 else None
    is_open = evidence.speaks_for_memory if evidence else bool(changes.get("is_open"))
    return Judgement(generation=60, rows=rows, is_open=is_open, limit=0.4, evidence=evidence)


def sentence(judgement: Judgement) -> str:
    return learned_sentence({"caption": judgement})


def test_an_open_memory_says_how_many_corrections_it_uses_and_what_they_are_worth() -> None:
    assert sentence(make_judgement(**GAINS)) == (
        "Suggestions for look-alike images use the words of 57 corrections. Compared with the decoder alone, they are "
        "nearer to what annotators wrote (leave-one-out, 57 images: in 97% of random samples)."
    )


def test_an_open_memory_claims_no_gain_that_was_not_measured() -> None:
    unfamiliar: dict[str, Any] = {"chance": 0.01, "gain": -0.01, "gains_in": 0.4, "alikeness": 0.45}

    said = sentence(make_judgement(**unfamiliar))

    assert said.startswith("Suggestions for look-alike images use the words of 57 corrections. The decoder does not")
    assert "It is not clear yet that the suggestions are nearer" in said
    assert said.endswith("(leave-one-out, 57 images: in 40% of random samples).")


def test_an_open_memory_without_corrections_to_compare_names_the_earlier_comparison() -> None:
    said = sentence(make_judgement(is_open=True))

    assert said.startswith("Suggestions for look-alike images use the words of 57 corrections. An earlier comparison")


def test_too_few_corrections_are_counted() -> None:
    assert sentence(make_judgement(rows=3)) == "Too few corrections so far: 3 of 5."


def test_corrections_that_the_version_was_trained_on_cannot_be_compared() -> None:
    assert sentence(make_judgement()).startswith("The serving version was trained on nearly all corrections")


@pytest.mark.parametrize("alikeness", [0.05, 0.45])
def test_shuffled_captions_are_not_used(alikeness: float) -> None:
    said = sentence(make_judgement(**GAINS | {"chance": 0.6, "alikeness": alikeness}))

    assert said == (
        "The captions do not clearly describe their own images better than shuffled captions would, so they are not "
        "used."
    )


@pytest.mark.parametrize(("alikeness", "gains_in"), [(0.05, 0.7), (0.45, 0.1)])
def test_captions_that_are_no_better_than_the_decoder_s_are_nothing_to_learn(alikeness: float, gains_in: float) -> None:
    said = sentence(make_judgement(**GAINS | {"alikeness": alikeness, "gains_in": gains_in}))

    assert said.startswith("Nothing to learn here yet: captions of look-alike images are not clearly nearer")


def test_an_open_memory_says_that_annotators_keep_more_of_its_captions() -> None:
    won = Experiment(by_memory=70, by_decoder=30, gain=0.1, gains_in=0.9, losses_in=0.1)

    said = sentence(make_judgement(**GAINS | {"gains_in": 0.5, "experiment": won}))

    assert said == (
        "Suggestions for look-alike images use the words of 57 corrections. Annotators keep more of their words than "
        "of those of the decoder alone (compared on 70 images with the memory and 30 without)."
    )


def test_a_memory_that_closed_because_annotators_keep_more_of_the_decoder_s_captions_says_so() -> None:
    lost = Experiment(by_memory=70, by_decoder=30, gain=-0.1, gains_in=0.0, losses_in=1.0)

    said = sentence(make_judgement(**GAINS | {"experiment": lost}))

    assert said == (
        "Suggestions with the words of the corrections are not used, because annotators kept more words of the "
        "suggestions of the decoder alone (compared on 70 images with the memory and 30 without)."
    )
    shuffled = make_judgement(**GAINS | {"experiment": lost, "chance": 0.6})
    assert sentence(shuffled).startswith("The captions do not clearly describe their own images")


def test_without_a_judgement_the_comparison_is_announced() -> None:
    assert learned_sentence({}) == (
        "The corrections are not compared with the serving version yet. That happens with the next suggestion."
    )


def test_each_of_several_fields_has_a_sentence() -> None:
    said = learned_sentence({"title": make_judgement(rows=3), "caption": make_judgement(**GAINS)})

    assert said.startswith("caption: Suggestions for look-alike images use the words of 57 corrections.")
    assert said.endswith(" title: Too few corrections so far: 3 of 5.")


def test_the_standing_names_the_present_generation_only_where_the_memory_is_open() -> None:
    opened, closed = make_judgement(**GAINS), make_judgement(rows=3)

    def standing(**fields: Judgement) -> str:
        return MemoryReport(generation=61, fields=fields).standing

    assert standing() == "closed"
    assert standing(caption=closed) == "closed"
    assert standing(caption=opened) == "57 corrections, open, generation 61"
    assert standing(title=closed, caption=opened) == "caption: 57 corrections, open, generation 61; title: closed"
