import pytest

from model.metrics.words import metric_words
from worker.feedback.edit_kinds import EditKind, edit_kinds


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        # objects, and what no list names
        ("a dog on a sofa", "a cat on a sofa", ("object",)),
        ("a dog runs", "a dog sleeps", ("object",)),
        ("一隻狗", "一隻貓", ("object",)),
        # attributes: colours, sizes, materials
        ("a red ball", "a blue ball", ("attribute",)),
        ("a dog", "a small dog", ("attribute",)),
        ("a bench", "a wooden bench", ("attribute",)),
        ("紅色的球", "藍色的球", ("attribute",)),
        # counts
        ("two dogs run", "three dogs run", ("count",)),
        ("a dog runs", "several dogs run", ("count",)),
        ("一隻狗", "兩隻狗", ("count",)),
        # spatial relations; a place word counts only in the place of another
        ("a cup on the table", "a cup under the table", ("relation",)),
        ("a cup on the table", "a cup in the table", ("relation",)),
        ("a box left of a ball", "a box right of a ball", ("relation",)),
        ("a man", "a man in a hat", ("object",)),
        ("狗在桌子上", "狗在桌子下", ("relation",)),
        # backgrounds
        ("a dog runs", "a dog runs on the grass", ("background",)),
        ("a man on a beach", "a man on a street", ("background",)),
        ("一隻狗在草地上", "一隻狗在雪上", ("background",)),
        # the same in other words
        ("a dog runs.", "The dog runs", ("wording",)),
        ("a dog runs", "a dog is running", ("wording",)),
        ("a girl rides a pony", "a girl riding ponies", ("wording",)),
        ("a boy sat", "a boy sits", ("wording",)),
        ("a dog and a cat", "a cat and a dog", ("wording",)),
        ("一隻狗", "一條狗", ("wording",)),
        ("a dog", "A dog!", ("wording",)),
        # several at once, in a fixed order
        ("a man in a red shirt", "two men in a blue shirt", ("attribute", "count")),
        ("a dog", "a brown dog in front of a house", ("attribute", "relation", "background")),
        # known limits: words change their places, and "cap" is no form of "cape"
        ("two dogs and a cat", "a dog and two cats", ("wording",)),
        ("a cap", "a cape", ("object",)),
    ],
)
def test_an_edit_is_of_these_kinds(before: str, after: str, kinds: tuple[EditKind, ...]) -> None:
    assert edit_kinds(metric_words(before), metric_words(after)) == kinds
    assert edit_kinds(metric_words(after), metric_words(before)) == kinds
