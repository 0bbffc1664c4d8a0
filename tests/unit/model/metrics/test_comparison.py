from dataclasses import replace

from model.metrics.comparison import Comparison
from model.metrics.evaluation import Evaluation
from model.metrics.scores import measure

PEOPLE = [["two dogs run in the snow"], ["a red car on a road"], ["a child eats an apple"]]
RIGHT = [people[0] for people in PEOPLE]
SHORT = ["two dogs run in the snow", "a red car", "a child"]


def score(version: str, captions: list[str]) -> Evaluation:
    return Evaluation(version=version, metrics=measure(captions, PEOPLE), captions=(), unreadable={})


def test_the_table_has_each_score_before_and_after() -> None:
    comparison = Comparison(before=score("tiny-1", SHORT), after=score("photos", RIGHT))

    head, columns, *rows, verdict = comparison.table().splitlines()
    assert head == "tiny-1 before, on 3 held-out images, and after training"
    assert columns.split() == ["before", "after", "change"]
    assert [row[:16].strip() for row in rows] == [
        *("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "words to edit", "none to edit")
    ]
    assert rows[-2].split() == ["words", "to", "edit", "2.0", "0.0", "-2.0"]
    assert rows[-1].split() == ["none", "to", "edit", "33.3", "100.0", "+66.7"]
    assert verdict == "better in every score"


def test_scores_that_are_not_better_are_named() -> None:
    worse = Comparison(before=score("tiny-1", RIGHT), after=score("photos", SHORT))
    same = Comparison(before=score("tiny-1", SHORT), after=score("photos", SHORT))

    scores = "BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L, CIDEr-D"
    for comparison in (worse, same):
        assert not comparison.is_better
        assert comparison.table().splitlines()[-1] == (
            f"not better than before in {scores}: go on with tiny-1, or give more captions"
        )


def test_a_score_that_fell_is_named_though_the_whole_is_better() -> None:
    before, after = score("tiny-1", SHORT), score("photos", RIGHT)

    comparison = Comparison(before=before, after=replace(after, metrics=replace(after.metrics, bleu_1=0.1)))

    assert comparison.is_better
    assert comparison.table().splitlines()[-1] == "better, but not in BLEU-1"
