"""CIDEr-D against fixed references, quick enough to reward every caption of a training (Vedantam et al. 2015,
https://arxiv.org/abs/1411.5726, section 5)."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.metrics.words import Words

LONGEST = 4
"""N-grams of 1 to this many words are compared."""
SPREAD = 6.0
"""Standard deviation, in words, of the penalty on another length."""


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    """The n-grams of one caption, each with its count times its rarity."""

    grams: tuple[dict[Words, float], ...]
    """For n = 1..4."""
    norms: tuple[float, ...]
    length: int


class CiderD:
    """Knows the references of a set of images and how rare each n-gram is among them.

    10 x the mean over n = 1..4 and over references r of
    exp(-(len c - len r)^2 / (2 * 6^2)) * min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|),
    where g counts n-grams, each weighted by log(images / images that have it in a reference).
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        seen_in = Counter(gram for several in references for gram in {gram for one in several for gram in grams(one)})
        self._unseen = math.log(len(references))
        self._rarity = {gram: math.log(len(references) / count) for gram, count in seen_in.items()}
        self._references = [[self._weigh(one) for one in several] for several in references]

    def score(self, image: int, caption: Words) -> float:
        """Return the CIDEr-D of a caption, 0 to 10.

        Args:
            image: whose references count, by its place among them.
            caption: the words that were written for it.
        """
        weighed = self._weigh(caption)
        several = self._references[image]
        return 10 * sum(_similarity(weighed, one) for one in several) / (LONGEST * len(several))

    def _weigh(self, words: Words) -> _Weighed:
        weights: tuple[dict[Words, float], ...] = tuple({} for _ in range(LONGEST))
        for gram, count in Counter(grams(words)).items():
            weights[len(gram) - 1][gram] = count * self._rarity.get(gram, self._unseen)
        norms = tuple(math.sqrt(sum(weight * weight for weight in of.values())) for of in weights)
        return _Weighed(grams=weights, norms=norms, length=len(words))


def grams(words: Words) -> Iterator[Words]:
    """Yield every run of 1 to 4 words."""
    for n in range(1, LONGEST + 1):
        for at in range(len(words) - n + 1):
            yield words[at : at + n]


def _similarity(caption: _Weighed, reference: _Weighed) -> float:
    """Return the sum over n of the clipped cosine, less for another length."""
    total = 0.0
    for mine, theirs, norm, their_norm in zip(
        caption.grams, reference.grams, caption.norms, reference.norms, strict=True
    ):
        if norm and their_norm:
            shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
            total += shared / (norm * their_norm)
    return total * math.exp(-((caption.length - reference.length) ** 2) / (2 * SPREAD**2))
