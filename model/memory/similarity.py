"""How alike two captions are: half by their words in order, half by the rare words and phrases that they share.

Shapes:  C captions of ours   N captions of theirs   G n-grams of one length
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from model.metrics.cider import LONGEST, SPREAD, grams
from model.metrics.words import Words

PHRASES_SHARE = 0.5
"""Weight of shared phrases beside the words in order. With phrases alone, more words must be edited."""
COUNTED = 2000
"""Captions whose phrases are counted at most, so that the counts stay small."""

Similarities = NDArray[np.float32]


class Rarity:
    """Counts in how many captions of a project each run of one to four words occurs."""

    def __init__(self, captions: Iterable[Words] = ()) -> None:
        self.captions = 0
        self._containing: Counter[Words] = Counter()
        for words in captions:
            self.add(words)

    def add(self, words: Words) -> bool:
        """Count a caption; False where enough are counted already."""
        if self.captions >= COUNTED:
            return False
        self._containing.update(set(grams(words)))
        self.captions += 1
        return True

    def remove(self, words: Words) -> None:
        """Take back a caption that `add` counted."""
        self.captions -= 1
        for gram in set(grams(words)):
            self._containing[gram] -= 1
            if not self._containing[gram]:
                del self._containing[gram]

    def of(self, gram: Words) -> float:
        """Return log(captions / captions that contain it), smoothed; always above 0."""
        return math.log((self.captions + 1) / (self._containing.get(gram, 0) + 0.5))


def similarities(ours: Sequence[Words], theirs: Sequence[Words], rarity: Rarity) -> Similarities:
    """Return the similarity of each caption of ours to each of theirs, [C, N], about 0 to 1.5.

    The part by phrases is the mean cosine of the n-grams for n = 1..4, weighted by rarity, with the penalty on another
    length that CIDEr-D has (Vedantam et al. 2015, section 5, https://arxiv.org/abs/1411.5726).
    """
    lengths, other_lengths = _lengths(ours), _lengths(theirs)
    longer = np.maximum(np.maximum(lengths[:, None], other_lengths), 1)
    in_order = 1 - cdist(ours, theirs, scorer=Levenshtein.distance, dtype=np.float32) / longer
    penalty = np.exp(-((lengths[:, None] - other_lengths) ** 2) / (2 * SPREAD**2))
    phrases = 2 * penalty * _mean_cosine(ours, theirs, rarity)
    return np.asarray(PHRASES_SHARE * phrases + (1 - PHRASES_SHARE) * in_order, np.float32)


def _lengths(captions: Sequence[Words]) -> NDArray[np.float32]:
    return np.array([len(words) for words in captions], np.float32)


def _mean_cosine(ours: Sequence[Words], theirs: Sequence[Words], rarity: Rarity) -> NDArray[np.float32]:
    """Return the mean over n of the cosine between n-grams, [C, N]."""
    counts = [Counter(grams(words)) for words in ours]
    columns: tuple[dict[Words, int], ...] = tuple({} for _ in range(LONGEST))
    for counted in counts:
        for gram in counted:
            of_length = columns[len(gram) - 1]
            of_length.setdefault(gram, len(of_length))
    weights = {gram: rarity.of(gram) for of_length in columns for gram in of_length}
    mine, my_norms = _weighed(counts, columns, weights, rarity)
    other, other_norms = _weighed([Counter(grams(words)) for words in theirs], columns, weights, rarity)
    total: NDArray[np.float32] = np.zeros((len(ours), len(theirs)), np.float32)
    for length in range(LONGEST):
        norms = my_norms[:, length, None] * other_norms[:, length]
        products = mine[length] @ other[length].T
        total += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.asarray(total / LONGEST, np.float32)


def _weighed(
    counts: Sequence[Counter[Words]],
    columns: Sequence[dict[Words, int]],
    weights: dict[Words, float],
    rarity: Rarity,
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Return for each n the weighed n-grams of captions, [captions, G], and their norms [captions, n].

    Only n-grams with a column are in the matrices; the norms are of all.
    """
    matrices: list[NDArray[np.float32]] = [np.zeros((len(counts), len(of_length)), np.float32) for of_length in columns]
    squares = np.zeros((len(counts), LONGEST), np.float32)
    for row, counted in enumerate(counts):
        for gram, count in counted.items():
            weight = weights.get(gram)
            length = len(gram) - 1
            if weight is None:
                squares[row, length] += (count * rarity.of(gram)) ** 2
                continue
            matrices[length][row, columns[length][gram]] = count * weight
            squares[row, length] += (count * weight) ** 2
    return matrices, np.asarray(np.sqrt(squares), np.float32)
