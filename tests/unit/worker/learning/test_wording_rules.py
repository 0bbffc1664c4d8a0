import random
import re
from collections.abc import Callable

import pytest

from backend.demo.scenes import sample_scene, write_captions
from worker.learning.wording_rules import find_systematic_edits, rewrite

CAPTIONS = [write_captions(sample_scene(seed), 1)[0] for seed in range(400)]
UNSEEN = [write_captions(sample_scene(seed), 1)[0] for seed in range(1000, 1060)]


def no_size(caption: str) -> str:
    return re.sub(r"\b(?:large|small) ", "", caption)


@pytest.mark.parametrize(
    "house_style",
    [
        lambda caption: caption.replace("circle", "ball"),
        lambda caption: "a picture of " + caption,
        lambda caption: caption + " on a page",
        lambda caption: caption + ".",
        no_size,
        lambda caption: "we see " + no_size(caption).replace("square", "box").replace("boxs", "boxes"),
        lambda caption: caption.replace("to the left of", "left of"),
        lambda caption: re.sub(r" on an? [a-z ]*background$", "", caption),
    ],
    ids=["word", "first words", "last words", "full stop", "words left out", "several", "phrase", "background"],
)
def test_a_habit_of_28_corrections_is_applied_to_captions_that_nobody_corrected(
    house_style: Callable[[str], str],
) -> None:
    concerned = [caption for caption in CAPTIONS if house_style(caption) != caption][:28]

    edits = find_systematic_edits([(caption, house_style(caption)) for caption in concerned])

    right = sum(rewrite(caption, edits) == house_style(caption) for caption in UNSEEN)
    assert right >= 0.9 * len(UNSEEN), [str(edit) for edit in edits]


def test_words_that_annotators_leave_out_may_have_different_words_within() -> None:
    pairs = [(f"a dog on a {color} background", "a dog") for color in ("red", "blue", "grey", "dark green", "beige")]

    (edit,) = find_systematic_edits(pairs)

    assert rewrite("two cats on a light pink background", [edit]) == "two cats"
    assert rewrite("two cats on a wall", [edit]) == "two cats on a wall"


def test_three_captions_are_too_few_to_conclude_a_gap() -> None:
    pairs = [(f"a dog on a {color} background", "a dog") for color in ("red", "blue", "grey")]

    assert find_systematic_edits(pairs) == []


def test_an_edit_says_how_often_it_holds() -> None:
    pairs = [("a red circle", "a crimson circle")] * 9 + [("a red square", "a red square")]

    (edit,) = find_systematic_edits(pairs)

    assert str(edit) == '"red" -> "crimson" in 9 of 10'


def test_a_word_that_only_some_captions_changed_is_a_mistake_of_ours_and_no_style() -> None:
    pairs = [("a red circle", "an orange circle")] * 5 + [("a red circle on grey", "a red circle on grey")] * 3

    assert find_systematic_edits(pairs) == []


@pytest.mark.parametrize("seed", range(20))
def test_captions_of_other_images_lead_to_no_edits(seed: int) -> None:
    shuffled = random.Random(seed).sample(CAPTIONS[:40], 40)

    edits = find_systematic_edits(zip(CAPTIONS[:40], shuffled, strict=True))

    assert sum(rewrite(caption, edits) != caption for caption in UNSEEN) <= 0.1 * len(UNSEEN), [str(e) for e in edits]


def test_the_same_caption_for_all_is_no_style() -> None:
    assert find_systematic_edits([(caption, "nice picture") for caption in CAPTIONS[:40]]) == []


def test_spaces_stay_as_they_are_and_chinese_has_none() -> None:
    english = find_systematic_edits([("A dog , wet.", "A puppy , wet."), ("The dog's ball", "The puppy's ball")] * 2)
    chinese = find_systematic_edits([("一只狗在跑。", "一只小狗在跑。"), ("黑狗", "黑小狗")] * 2)

    assert rewrite("Two  dogs , a dog's tail.", english) == "Two  dogs , a puppy's tail."
    assert rewrite("白狗和黑狗", chinese) == "白小狗和黑小狗"
