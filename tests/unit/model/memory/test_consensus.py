"""The choice among captions by the captions of look-alike images."""

import numpy as np
import pytest

from model.memory.consensus import CANDIDATES, choose, heaviest, rank, vote_weights
from model.memory.similarity import Rarity
from model.metrics.words import metric_words

RIVER, PLANES = (
    metric_words("many green trees are near a river"),
    metric_words("several planes are parked in an airport"),
)


def unit(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_the_most_alike_image_has_the_most_weight() -> None:
    weights = vote_weights(unit(1, 0, 0), np.stack([unit(1, 0.1, 0), unit(1, 1, 0), unit(0, 0, 1)]))

    assert weights.sum() == pytest.approx(1)
    assert list(np.argsort(-weights)) == [0, 1, 2]


def test_copies_of_an_image_share_its_weight() -> None:
    image, other = unit(1, 0.2, 0), unit(1, -0.2, 0)

    alone = vote_weights(unit(1, 0, 0), np.stack([image, other]))
    copied = vote_weights(unit(1, 0, 0), np.stack([image] * 20 + [other]))

    assert alone[1] == pytest.approx(0.5)
    assert copied[0] < copied[20] < alone[1]
    assert copied[:20].sum() < 20 * copied[20]


def test_each_caption_is_a_candidate_once_and_there_are_not_more_than_a_dozen() -> None:
    weights = np.linspace(1, 0, 40, dtype=np.float32)
    captions = [("a", "dog")] * 20 + [("cat", str(number)) for number in range(20)]

    places = heaviest(weights, captions)

    assert places == [0, *range(20, 20 + CANDIDATES - 1)]


def test_the_caption_that_most_look_alikes_agree_with_is_chosen() -> None:
    captions = [RIVER, PLANES, PLANES]
    weights = np.array([0.4, 0.35, 0.25], np.float32)
    rarity = Rarity(captions)

    ranked = rank([RIVER, PLANES], captions, weights, rarity)

    assert choose([RIVER, PLANES], captions, weights, rarity) == 1
    assert [choice.place for choice in ranked] == [1, 0]
    assert ranked[0].speakers[:2] == (1, 2)
    assert ranked[0].score > ranked[1].score


def test_a_caption_of_the_decoder_that_says_the_same_better_can_be_chosen() -> None:
    written = [metric_words(f"a {color} car on a road") for color in ("red", "red", "old", "new")]
    ours = metric_words("a red car on a road")

    assert choose([written[2], ours], written, np.full(4, 0.25, np.float32), Rarity(written)) == 1
