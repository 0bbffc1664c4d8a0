"""The choice among captions by the captions of look-alike images.

    image -> its nearest corrected images, each with a weight -> candidates: captions of the heaviest, and the decoder's
          -> the candidate that is most like all their captions, by weight (consensus captioning, Devlin et al. 2015,
             https://arxiv.org/abs/1505.04467)

Shapes:  N nearest images   V length of a vector   C candidates
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.memory.similarity import Rarity, similarities
from model.metrics.words import Words

NEAREST = 100
"""Corrected images that vote."""
CANDIDATES = 12
"""Captions of the heaviest images that may be suggested."""
RIDGE = 3.0
"""Strength of the regularisation of the weights: the higher, the more images share the vote."""
WIDTH = 0.4
"""Width of the kernel, in cosine."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A candidate and how well look-alike images speak for it."""

    place: int
    """Among the candidates."""
    score: float
    """Its mean similarity to the captions of look-alike images, by their weight."""
    speakers: tuple[int, ...]
    """Places of the nearest images, those first that speak for it most."""


def vote_weights(image: NDArray[np.float32], nearest: NDArray[np.float32]) -> Weights:
    """Return the weight of each of the nearest images, [N], sum 1: those of kernel ridge regression.

    What is said about an image is predicted from what was said about the others (Saunders et al. 1998). So several
    copies of one image count little more than one.

    Args:
        image: vector of the image, [V].
        nearest: vectors of the images that look like it, [N, V], at least one.
    """
    kernel = np.exp((nearest @ nearest.T - 1) / WIDTH)
    to_image = np.exp((nearest @ image - 1) / WIDTH)
    weights = np.linalg.solve(kernel + RIDGE * np.eye(len(nearest), dtype=np.float32), to_image)
    return np.asarray(weights / weights.sum(), np.float32)


def heaviest(weights: Weights, captions: Sequence[Words]) -> list[int]:
    """Return the places of the heaviest images whose captions may be suggested, each caption once."""
    places: list[int] = []
    seen: set[Words] = set()
    for place in np.argsort(-weights):
        if captions[place] not in seen:
            seen.add(captions[place])
            places.append(int(place))
        if len(places) == CANDIDATES:
            break
    return places


def rank(candidates: Sequence[Words], captions: Sequence[Words], weights: Weights, rarity: Rarity) -> list[Choice]:
    """Return the candidates in the order of their likeness to the captions of look-alike images, each caption once.

    Args:
        candidates: at least one.
        captions: of the nearest images, N.
        weights: of the nearest images, [N].
        rarity: of the words and phrases in the project.
    """
    parts = similarities(candidates, captions, rarity) * weights
    scores = parts.sum(axis=1)
    choices: dict[Words, Choice] = {}
    for place in map(int, np.argsort(-scores, kind="stable")):
        speakers = tuple(map(int, np.argsort(-parts[place], kind="stable")))
        choice = Choice(place=place, score=float(scores[place]), speakers=speakers)
        choices.setdefault(candidates[place], choice)
    return list(choices.values())


def choose(candidates: Sequence[Words], captions: Sequence[Words], weights: Weights, rarity: Rarity) -> int:
    """Return the place of the candidate that `rank` puts first."""
    return int((similarities(candidates, captions, rarity) @ weights).argmax())
