"""How alike two captions are: half by their words in order, half by the rare words and phrases that they share.

Shapes:  C captions of ours   N captions of theirs   G n-grams of one length
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from model.metrics.cider import LONGEST, SPREAD, grams
from model.metrics.words import Words, metric_words

PHRASES_SHARE = 0.5
"""Weight of shared phrases beside the words in order. With phrases alone, more words must be edited."""
COUNTED = 2000
"""Captions whose phrases are counted at most, so that the counts stay small."""
WORDS_REMEMBERED = 4096
REMEMBERED = 2000
"""Captions whose phrases are remembered with their weights."""

Similarities = NDArray[np.float32]


@lru_cache(maxsize=WORDS_REMEMBERED)
def words_of(caption: str) -> Words:
    """Return the words of a caption that are compared. The captions of look-alikes are needed again and again."""
    return metric_words(caption)


class Weighed(NamedTuple):
    """The phrases of one caption."""

    weights: tuple[dict[Words, float], ...]
    """For n = 1..4, of each run of n words: how often it occurs, times its rarity."""
    norms: tuple[float, ...]
    """Of the weights for n = 1..4."""


class Rarity:
    """Counts in how many captions of a project each run of one to four words occurs."""

    def __init__(self, captions: Iterable[Words] = ()) -> None:
        self.captions = 0
        self._containing: Counter[Words] = Counter()
        self._weighed: dict[Words, Weighed] = {}
        for words in captions:
            self.add(words)

    def add(self, words: Words) -> bool:
        """Count a caption; False where enough are counted already."""
        if self.captions >= COUNTED:
            return False
        self._weighed.clear()
        self._containing.update(set(grams(words)))
        self.captions += 1
        return True

    def remove(self, words: Words) -> None:
        """Take back a caption that `add` counted."""
        self._weighed.clear()
        self.captions -= 1
        for gram in set(grams(words)):
            self._containing[gram] -= 1
            if not self._containing[gram]:
                del self._containing[gram]

    def of(self, gram: Words) -> float:
        """Return log(captions / captions that contain it), smoothed; always above 0."""
        return math.log((self.captions + 1) / (self._containing.get(gram, 0) + 0.5))

    def weigh(self, words: Words) -> Weighed:
        """Return the phrases of a caption. The result is remembered until a caption comes or goes."""
        weighed = self._weighed.get(words)
        if weighed is None:
            if len(self._weighed) >= REMEMBERED:
                self._weighed.clear()
            weights: tuple[dict[Words, float], ...] = tuple({} for _ in range(LONGEST))
            for gram, count in Counter(grams(words)).items():
                weights[len(gram) - 1][gram] = count * self.of(gram)
            norms = tuple(math.sqrt(sum(weight * weight for weight in of.values())) for of in weights)
            weighed = self._weighed[words] = Weighed(weights, norms)
        return weighed


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
    mine, other = [rarity.weigh(words) for words in ours], [rarity.weigh(words) for words in theirs]
    total: NDArray[np.float32] = np.zeros((len(ours), len(theirs)), np.float32)
    for length in range(LONGEST):
        columns = {gram: place for place, gram in enumerate({gram for c in mine for gram in c.weights[length]})}
        products = _matrix(mine, length, columns) @ _matrix(other, length, columns).T
        norms = np.outer([caption.norms[length] for caption in mine], [caption.norms[length] for caption in other])
        total += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.asarray(total / LONGEST, np.float32)


def _matrix(captions: Sequence[Weighed], length: int, columns: dict[Words, int]) -> NDArray[np.float32]:
    """Return the weights of those n-grams of captions that have a column, [captions, G]; n is length + 1."""
    matrix: NDArray[np.float32] = np.zeros((len(captions), len(columns)), np.float32)
    found = [
        (row, columns[gram], weight)
        for row, caption in enumerate(captions)
        for gram, weight in caption.weights[length].items()
        if gram in columns
    ]
    if found:
        rows, places, weights = zip(*found, strict=True)
        matrix[rows, places] = weights
    return matrix
