"""What a caption is about, and whether people's captions agree."""

import pytest

from model.metrics.main_things import MainThings, are_main_things_right, main_things, stem


@pytest.mark.parametrize(
    ("caption", "thing", "action"),
    [
        ("A young boy is playing in a yellow.", "boy", "playing"),
        ("A man and a woman are sitting on a bench.", "man", "sitting"),
        ("a group of people standing in front of a building", "people", "standing"),
        ("a close up of a pizza on a table", "pizza", None),
        ("there is a cat lying on a bed", "cat", "lying"),
        ("two brown dogs run through the grass", "dogs", "run"),
        ("A white bathroom with a toilet.", "bathroom", None),
        ("a group of", "group", None),
        ("a plane flies over a city", "plane", "flies"),
    ],
)
def test_a_caption_is_about_its_first_thing_and_what_that_does(caption: str, thing: str, action: str | None) -> None:
    assert main_things(caption) == MainThings(thing=stem(thing), action=None if action is None else stem(action))


@pytest.mark.parametrize("caption", ["", "in the", "..."])
def test_a_caption_without_a_thing_is_about_nothing(caption: str) -> None:
    assert main_things(caption) is None
    assert not are_main_things_right(caption, ["a dog runs"])


@pytest.mark.parametrize(
    "forms",
    [
        "sit sits sitting",
        "run runs running",
        "ride rides riding",
        "carry carries carrying",
        "baby babies",
        "fly flies flying",
        "horse horses",
    ],
)
def test_the_forms_of_a_word_have_one_stem(forms: str) -> None:
    assert len({stem(word) for word in forms.split()}) == 1


def test_a_thing_that_ends_in_ing_is_no_verb() -> None:
    assert main_things("a tall building") == MainThings(thing="building", action=None)


def test_both_must_be_in_one_reference() -> None:
    assert are_main_things_right("A dog runs.", ["a cat sleeps", "the dogs are running on grass"])
    assert not are_main_things_right("A dog runs.", ["a dog sleeps", "a cat runs"])
