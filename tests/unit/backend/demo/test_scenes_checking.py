import pytest

from backend.demo.scenes import Background, Group, Item, Scene, wrong_facts
from backend.demo.scenes.checking import UnreadableCaptionError, parse_claims


def make_group(shape: str, colour: str, size: str, *places: tuple[float, float]) -> Group:
    radius = 0.06 if size == "small" else 0.13
    items = tuple(Item(x=x, y=y, radius=radius, tilt=0.0) for x, y in places)
    return Group(shape=shape, colour=colour, size=size, items=items)


CIRCLE = make_group("circle", "red", "large", (0.25, 0.25))
SQUARES = make_group("square", "blue", "small", (0.7, 0.75), (0.86, 0.75))
STRIPED = Background(pattern="striped", colour="grey", angle=0.0, period=0.1)
APART = Scene(groups=(CIRCLE, SQUARES), overlap=None, background=STRIPED, noise=0.0, has_shadows=False, seed=0)
"""A large red circle in the top left corner, two small blue squares at the lower right."""

STAR = make_group("star", "orange", "large", (0.5, 0.5))
HEART = make_group("heart", "green", "large", (0.65, 0.5))
COVERED = Scene(groups=(STAR, HEART), overlap="in front of", background=STRIPED, noise=0.0, has_shadows=False, seed=0)
"""A green heart in front of an orange star."""


@pytest.mark.parametrize(
    "caption",
    [
        "a large red circle and two small blue squares",
        "two blue squares and a red circle",
        "a large red circle above two small blue squares",
        "there are two small blue squares to the right of a large red circle",
        "a red circle with two small blue squares below it",
        "two small blue squares with a red circle to the left of them on a striped background",
        "a red circle in the top left corner and two blue squares on the right on a grey background",
        "there is one red circle at the top on a striped grey background",
    ],
)
def test_true_statements_hold_in_any_wording(caption: str) -> None:
    assert wrong_facts(caption, APART) == []


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a large green circle", ["colour: said green, but it is red"]),
        ("three small blue squares", ["count: said 3, but it is 2"]),
        ("a small red circle", ["size: said small, but it is large"]),
        ("a large red star", ["shape: said star, but it is circle"]),
        ("a red circle on the right", ["position: the red circle is not on the right"]),
        ("a red circle below two blue squares", ["relation: the red circle is not below the blue square"]),
        ("a red circle on a dotted background", ["background: said dotted, but it is striped"]),
        ("a red circle on a white background", ["background: said white, but it is grey"]),
        ("a red circle, two blue squares and a red star", ["object: there is no further red star"]),
        ("a red circle and a red circle", None),
    ],
)
def test_each_kind_of_wrong_fact_is_named(caption: str, wrong: list[str] | None) -> None:
    mistakes = wrong_facts(caption, APART)

    assert mistakes
    assert wrong is None or mistakes == wrong


def test_two_wrong_facts_are_two_lines() -> None:
    assert len(wrong_facts("a small green circle above two small blue squares", APART)) == 2


@pytest.mark.parametrize(
    ("caption", "is_true"),
    [
        ("a large green heart in front of a large orange star", True),
        ("an orange star behind a green heart", True),
        ("an orange star with a green heart in front of it", True),
        ("a green heart behind an orange star", False),
        ("a green heart to the right of an orange star", False),
    ],
)
def test_covering_is_a_relation_of_its_own(caption: str, is_true: bool) -> None:
    assert (wrong_facts(caption, COVERED) == []) == is_true


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a picture",
        "a circle",
        "red circle",
        "a orange star",
        "two red circle",
        "a red circles",
        "there are a red circle",
        "a red circle above",
        "a red circle above it",
        "a red circle with two blue squares below them",
        "a red circle on a background",
        "a red circle and",
        "a red circle a blue square",
        "a red circle on the left of two blue squares",
        "A red circle.",
        "a man riding a horse",
    ],
)
def test_what_is_no_sentence_of_this_world_is_one_wrong_fact(caption: str) -> None:
    assert len(wrong_facts(caption, APART)) == 1
    with pytest.raises(UnreadableCaptionError):
        parse_claims(caption)


def test_a_relation_to_two_groups_is_checked_for_both() -> None:
    star = make_group("star", "pink", "small", (0.25, 0.9))
    scene = Scene(
        groups=(CIRCLE, SQUARES, star), overlap=None, background=STRIPED, noise=0.0, has_shadows=False, seed=0
    )

    assert wrong_facts("a red circle above two blue squares and a pink star", scene) == []
    assert wrong_facts("a red circle to the left of two blue squares and a pink star", scene) == [
        "relation: the red circle is not left of the pink star"
    ]
    assert wrong_facts("a red circle to the left of two blue squares and a pink star at the bottom", scene) == []
