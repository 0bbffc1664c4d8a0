"""Likeness of captions: by their words in order, and by the rare words and phrases that they share."""

import pytest

from model.memory.similarity import COUNTED, Rarity, similarities
from model.metrics.words import metric_words

CAPTIONS = [
    metric_words(text)
    for text in (
        "many green trees are near a river",
        "many green trees are near a road",
        "many planes are parked in an airport",
        "several planes are parked in an airport",
    )
]


def test_the_same_caption_is_most_alike_and_a_foreign_one_least() -> None:
    rarity = Rarity(CAPTIONS)

    [alike] = similarities([CAPTIONS[2]], [CAPTIONS[2], CAPTIONS[3], CAPTIONS[0], ("狗",)], rarity)

    assert list(alike) == sorted(alike, reverse=True)
    assert alike[0] == pytest.approx(1.5)
    assert alike[3] == 0


def test_a_rare_word_that_two_captions_share_counts_more_than_a_frequent_one() -> None:
    rarity = Rarity([*CAPTIONS, *[("many", "things")] * 20])
    caption = ("many", "x", "y", "airport")

    [alike] = similarities([caption], [("many", "p", "q", "r"), ("p", "q", "r", "airport")], rarity)

    assert alike[1] > alike[0]


def test_a_caption_without_words_is_like_nothing_and_harms_nothing() -> None:
    alike = similarities([(), CAPTIONS[0]], [(), CAPTIONS[0]], Rarity(CAPTIONS))

    assert alike[0, 1] == alike[1, 0] == 0
    assert alike[1, 1] == pytest.approx(1.5)


def test_what_was_counted_can_be_taken_back() -> None:
    rarity, without = Rarity(CAPTIONS), Rarity(CAPTIONS[:3])

    rarity.remove(CAPTIONS[3])

    assert [rarity.of((word,)) for word in CAPTIONS[3]] == [without.of((word,)) for word in CAPTIONS[3]]


def test_only_so_many_captions_are_counted() -> None:
    rarity = Rarity([("a", "dog")] * COUNTED)

    assert not rarity.add(("a", "cat"))
    assert rarity.captions == COUNTED
