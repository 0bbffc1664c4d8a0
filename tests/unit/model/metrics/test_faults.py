import pytest

from model.metrics.faults import BROKEN_END, EMPTY, ENDLESS, LOOP, REPEATED, Usage, caption_faults, caption_words

PEOPLE = [
    "A man in a red shirt climbs a rock .",
    "Two dogs run through the grass with a ball .",
    "The girl in the pink dress sits on the stairs in the sun .",
    "A child jumps into a pool while a woman watches .",
    "A woman walks down the street , and a man follows .",
]


@pytest.fixture(scope="module")
def usage() -> Usage:
    return Usage.of(caption_words(caption) for caption in PEOPLE * 8)


def faults(caption: str, usage: Usage) -> tuple[str, ...]:
    return caption_faults(caption_words(caption), usage)


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        ("this flower has yellow and yellow that are yellow and yellow that are yellow", LOOP),
        ("a man in a a red shirt", LOOP),
        ("a dog runs through the grass through the grass", LOOP),
        ("a man and a man are climbing", REPEATED),
        ("a rock on a rock near another rock", REPEATED),
        ("a dog with red ball and red ball beside red ball .", REPEATED),
        ("a man climbs a", BROKEN_END),
        ("a man climbs a .", BROKEN_END),
        ("a man climbs a rock ,", BROKEN_END),
        ("a man with", BROKEN_END),
        ("", EMPTY),
        (" . .", EMPTY),
    ],
)
def test_a_fault_of_decoding_is_found(caption: str, fault: str, usage: Usage) -> None:
    assert fault in faults(caption, usage)


@pytest.mark.parametrize(
    "caption",
    [
        *PEOPLE,
        "A man and a woman in a red car",
        "two men walk side by side",
        "a red circle and a red square",
        "wait ...",
        "the dog , the girl and the man",
    ],
)
def test_a_caption_as_people_write_it_has_no_fault(caption: str, usage: Usage) -> None:
    assert faults(caption, usage) == ()


def test_a_caption_that_was_cut_has_a_fault(usage: Usage) -> None:
    assert caption_faults(caption_words("a man"), usage, is_cut=True) == (ENDLESS,)


def test_doubled_characters_are_ordinary_in_chinese() -> None:
    written = "人人都看着一个一岁的小女孩"

    assert faults("两只狗慢慢地跑过草地", Usage.of([caption_words(written)])) == ()
    assert LOOP in faults("一个男人一个男人一个男人", Usage())


def test_words_that_people_repeat_may_be_repeated() -> None:
    caption = "green trees , green grass and a green bench"
    written = [caption_words(f"green walls , green doors and green windows {number}") for number in range(2)]

    assert faults(caption, Usage()) == (REPEATED,)
    assert faults(caption, Usage.of(written)) == ()


def test_a_word_that_people_end_with_is_no_broken_end() -> None:
    written = [caption_words("a place to stop at")] * 3

    assert faults("a house to look at", Usage()) == ()
    assert faults("a house to look at", Usage.of([caption_words("a place")])) == (BROKEN_END,)
    assert faults("a house to look at", Usage.of(written)) == ()


def test_without_captions_of_people_only_loops_are_found() -> None:
    assert Usage.of([]).repeated == frozenset()
    assert faults("a dog a dog", Usage()) == (LOOP,)
