"""The metrics, compared with the reference implementation's numbers and with numbers calculated by hand."""

import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.metrics.scores import SmoothedBleu, bleu, cider_d, edits_to_nearest, measure, measure_each, rouge_l
from tests.reference_sample import CAPTIONS as SAMPLE
from tests.reference_sample import REFERENCES as SAMPLE_REFERENCES
from tests.reference_sample import SCORES, SHORT_CAPTIONS, SHORT_SCORES

CAPTIONS = ["the dog runs fast", "two men"]
REFERENCES = [["the dog runs", "a dog runs quickly home"], ["two men sit"]]


def split(*texts: str) -> list[tuple[str, ...]]:
    return [tuple(text.split()) for text in texts]


@pytest.mark.parametrize(("captions", "scores"), [(SAMPLE, SCORES), (SHORT_CAPTIONS, SHORT_SCORES)])
def test_scores_are_those_of_the_reference_implementation(captions: list[str], scores: dict[str, float]) -> None:
    metrics = asdict(measure(captions, SAMPLE_REFERENCES))

    names = scores.keys() - {"meteor"}  # needs Java: tests/integration
    assert {name: metrics[name] for name in names} == pytest.approx({name: scores[name] for name in names}, abs=5e-5)


def test_bleu_by_hand() -> None:
    # 1-grams 3/4 and 2/2, 2-grams 2/3 and 1/1, 3-grams 1/2, 4-grams 1e-15/1; nearest lengths 3 and 3 to 4 and 2.
    scores = bleu(split(*CAPTIONS), [split(*several) for several in REFERENCES])

    assert scores == pytest.approx((5 / 6, 0.7905694, 0.6786044, 0.0001330), abs=1e-7)


def test_smoothed_bleu_by_hand() -> None:
    # Against four words: 1-grams 2/3, 2-grams (1+1)/(2+1), 3-grams 1/2, 4-grams 1/1, one word too few.
    bleu_of = SmoothedBleu([split("the dog runs fast"), split("two men sit", "a man")])

    assert bleu_of.score(0, ("the", "dog", "runs", "fast")) == pytest.approx(1.0)
    assert bleu_of.score(0, ("a", "dog", "runs")) == pytest.approx((2 / 9) ** 0.25 * math.exp(-1 / 3))
    assert bleu_of.score(1, ("two", "men", "sit")) == pytest.approx(1.0)
    assert bleu_of.score(1, ("the", "dog")) == 0
    assert bleu_of.score(1, ()) == 0


def test_bleu_punishes_brevity_against_the_nearest_reference() -> None:
    scores = bleu(split("a dog"), [split("a dog runs", "a dog runs on a green lawn")])

    assert scores[0] == pytest.approx(math.exp(1 - 3 / 2))


def test_bleu_counts_a_repeated_word_as_often_as_one_reference_has_it() -> None:
    assert bleu(split("the the the"), [split("the dog the", "the cat runs")])[0] == pytest.approx(2 / 3)


def test_rouge_l_by_hand() -> None:
    # Common subsequence "a dog runs": precision 3/3, recall 3/5, recall weighed 1.2.
    assert rouge_l(split("a dog runs"), [split("a big dog runs fast")]) == pytest.approx(0.7176471, abs=1e-7)


def test_rouge_l_takes_the_best_precision_and_the_best_recall() -> None:
    assert rouge_l(split("a b c d"), [split("a b c x y z", "a b")]) == pytest.approx(2.44 * 0.75 / (1 + 1.44 * 0.75))


def test_cider_d_by_hand() -> None:
    # Every n-gram is in one of two images, so all weigh log 2. The first caption has n = 1, 2 right: 10 * 2/4.
    # The second has one of two words, one word too few: 10/4 * 1/sqrt(2) * exp(-1/72).
    scores = cider_d(split("a b", "c"), [split("a b"), split("c d")])

    assert scores == pytest.approx([5.0, 1.7433843], abs=1e-6)


def test_cider_d_gives_nothing_for_words_that_every_image_has() -> None:
    assert cider_d(split("a", "a"), [split("a"), split("a")]) == [0.0, 0.0]


def test_cider_d_gives_nothing_more_for_repeating_a_word() -> None:
    once = cider_d(split("dog", "cat"), [split("dog runs"), split("cat sleeps")])
    often = cider_d(split("dog dog dog", "cat"), [split("dog runs"), split("cat sleeps")])

    assert often[0] < once[0]


@given(
    st.lists(
        st.lists(st.text(alphabet="abcd ", min_size=1, max_size=20), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_scores_stay_in_their_ranges_and_the_reference_itself_is_best(references: list[list[str]]) -> None:
    metrics = measure([several[0] for several in references], references)

    for score in (metrics.bleu_1, metrics.bleu_2, metrics.bleu_3, metrics.bleu_4, metrics.rouge_l):
        assert 0.0 <= score <= 1.0 + 1e-9
    assert 0.0 <= metrics.cider_d <= 10.0 + 1e-9
    assert (metrics.word_edits, metrics.word_error_rate, metrics.unedited) == (0.0, 0.0, 1.0)


def test_a_perfect_caption_scores_full_marks() -> None:
    captions = ["a brown dog runs over the wet lawn", "two men sit on a long red bench"]

    metrics = measure(captions, [[caption] for caption in captions])

    assert (metrics.bleu_4, metrics.rouge_l) == pytest.approx((1.0, 1.0))
    assert metrics.cider_d > 9.0
    assert metrics.images == 2


def test_edits_are_counted_to_the_nearest_reference_and_the_longest_of_those() -> None:
    candidate, references = split("a dog runs fast")[0], split("the dog runs", "a dog runs very fast", "two men")

    # "a" -> "the" and no "fast" for the first; "very" for the second; four for the third.
    assert edits_to_nearest(candidate, references) == (1, 5)
    assert edits_to_nearest(candidate, split("a dog runs")) == (1, 3)
    assert edits_to_nearest((), split("a dog")) == (2, 2)
    assert edits_to_nearest(split("a b c")[0], split("b c a")) == (2, 3)


def test_the_word_error_rate_is_the_mean_over_the_images() -> None:
    metrics = measure(
        ["A dog runs!", "two men sit", "a cat"],
        [["a dog runs"], ["two old men sit still", "men"], ["a black cat", "one hat"]],
    )

    assert metrics.word_edits == pytest.approx((0 + 2 + 1) / 3)
    assert metrics.word_error_rate == pytest.approx((0 + 2 / 5 + 1 / 3) / 3)
    assert metrics.unedited == pytest.approx(1 / 3)


def test_each_image_has_its_own_share_of_the_whole() -> None:
    each = measure_each(SAMPLE, SAMPLE_REFERENCES)

    whole = measure(SAMPLE, SAMPLE_REFERENCES)
    assert sum(image.cider_d for image in each) / len(each) == pytest.approx(whole.cider_d)
    assert sum(image.edits for image in each) / len(each) == pytest.approx(whole.word_edits)
    assert sum(image.edits / image.reference_words for image in each) / len(each) == pytest.approx(
        whole.word_error_rate
    )


def test_an_empty_caption_scores_nothing() -> None:
    metrics = measure([""], [["a dog"]])

    assert (metrics.bleu_1, metrics.rouge_l, metrics.cider_d) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_metrics_of_nothing_are_refused(captions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure(captions, references)
