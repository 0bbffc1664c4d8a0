"""CIDEr-D against fixed references (Vedantam et al. 2015, section 5, https://arxiv.org/abs/1411.5726).

It is fast enough to reward each sampled caption of a training.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.metrics.words import Words

LONGEST = 4
"""Largest n of the n-grams that are compared."""
SPREAD = 6.0
"""Standard deviation of the penalty on a different length, in words."""


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    """The n-grams of one caption, each with its count times its rarity."""

    grams: tuple[dict[Words, float], ...]
    """For n = 1..4."""
    norms: tuple[float, ...]
    length: int


class CiderD:
    """The references of a set of images, and the rarity of each n-gram among them.

    10 x the mean over n = 1..4 and over references r of
    exp(-(len c - len r)^2 / (2 * 6^2)) * min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|),
    where g counts n-grams, each weighted by log(images / images with the n-gram in a reference).
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        images = Counter(
            gram for several in references for gram in {gram for words in several for gram in grams(words)}
        )
        self._unseen = math.log(len(references))
        self._rarity = {gram: math.log(len(references) / count) for gram, count in images.items()}
        self._references = [[self._weigh(words) for words in several] for several in references]

    def score(self, image: int, caption: Words) -> float:
        """Return the CIDEr-D of a caption, 0 to 10; `image` is the row of its references."""
        weighed = self._weigh(caption)
        several = self._references[image]
        return 10 * sum(_similarity(weighed, reference) for reference in several) / (LONGEST * len(several))

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
    """Return the sum over n of the clipped cosine, with the penalty on a different length."""
    total = 0.0
    for mine, theirs, norm, their_norm in zip(
        caption.grams, reference.grams, caption.norms, reference.norms, strict=True
    ):
        if norm and their_norm:
            shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
            total += shared / (norm * their_norm)
    return total * math.exp(-((caption.length - reference.length) ** 2) / (2 * SPREAD**2))
