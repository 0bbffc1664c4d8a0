"""The words that metrics compare are the same as in the reference implementation."""

import pytest

from model.metrics.words import metric_words
from tests.reference_sample import REFERENCE_WORDS, REFERENCES


def test_the_sample_is_cut_as_the_reference_implementation_cuts_it() -> None:
    cut = [tuple(" ".join(metric_words(caption)) for caption in several) for several in REFERENCES]

    assert cut == list(REFERENCE_WORDS)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        # Outputs of the PTBTokenizer of pycocoevalcap 1.2, its punctuation removed.
        ("DON'T can't I'm they'd've cannot gonna 'tis", "do n't ca n't i 'm they 'd 've can not gon na 't is"),
        ("dogs' bowl, rock'n'roll, ma'am, y'all, s'mores", "dogs bowl rock 'n' roll ma'am y' all s'mores"),
        ("U.S. and D.C., Mr. T., etc. but the end.", "u.s. and d.c. mr. t. etc. but the end"),
        ("no. 5 says no. Miss. miss.", "no. 5 says no miss. miss"),
        ("1,000 at 10:30am, 3.5 or .5, 1/2, $5.50, 50%", "1,000 at 10:30 am 3.5 or .5 1/2 $ 5.50 50 %"),
        ("two-year-old's T-shirt; half- and -half --- x", "two-year-old 's t-shirt half and half x"),
        ("AT&T at&t statefarm.com #28 #tag and/or w/", "at&t at & t statefarm.com # 28 #tag and/or w /"),
        ("what?! wow!! no! why? ... (a) [b] 5'10\"", "what ?! wow !! no why -lrb- a -rrb- -lsb- b -rsb- 5 10"),
        ("“it’s” – ½ £3 €2 ☺", "it 's 1/2 # 3 $ 2 ☺"),
    ],
)
def test_english_is_cut_as_the_penn_treebank_cuts_it(caption: str, words: str) -> None:
    assert " ".join(metric_words(caption)) == words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只狗。", "一 只 狗"),
        ("两个人，T恤（红色）！", "两 个 人 t 恤 红 色"),
        ("かわいい犬、한국 개", "か わ い い 犬 한 국 개"),
    ],
)
def test_a_chinese_japanese_or_korean_character_is_a_word(caption: str, words: str) -> None:
    assert " ".join(metric_words(caption)) == words


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    assert metric_words("cafe\u0301") == metric_words("caf\u00e9") == ("café",)


def test_nothing_but_punctuation_is_no_word() -> None:
    assert metric_words(" .,;: - '\" … ") == ()
