"""Whether the memory may speak: what the corrections themselves show, each judged by all the others.

relevance   Do look-alike images have captions with the same rare words, more than shuffled captions would have?
gain        Is the caption that the memory would have suggested nearer to what the annotator wrote than the decoder's?
            Each image is suggested for without its own correction (leave one out).
unfamiliar  Are the images of another kind than those that the bundle was trained on?
experiment  Do annotators keep more of the memory's captions than of the decoder's, on images chosen by chance? It is
            made only where DECODER_ALONE_SHARE is set (model/memory/experiment.py).

Corrections flatter the decoder, because annotators edit what it wrote. So on images of a kind that the decoder never
saw, relevant captions are enough, unless the memory is clearly worse. The experiment flatters nobody, so its result
replaces the gain. An experiment that the memory loses closes it.

Shapes:  N corrected images   V length of a vector
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.memory.consensus import NEAREST, choose, heaviest, vote_weights
from model.memory.experiment import Experiment
from model.memory.similarity import Rarity, similarities
from model.metrics.words import Words

FEWEST = 5
"""Corrections that the memory needs before it may speak."""
JUDGED = 128
"""The newest corrections that are judged."""
ENOUGH_UNSEEN = 20
"""Captions that were written without a suggestion and so flatter nobody."""
READABLE = 0.5
"""Share of the annotators' words that the decoder must know, or they may be no words at all."""
FOREIGN = 0.15
"""Share of the words below which annotators write another language."""
FIRST = 20
"""With fewer corrections, relevance is seen less surely."""
PATIENCE = 15
"""Where the gain is clear, chance may be as high as this, divided by the number of corrections."""
RELEVANT = 0.1
"""Share of shuffles from which on captions may have been mixed up."""
ENOUGH = 40
"""Corrections that show relevance, if there is any."""
OWN_LANGUAGE = 15
"""Corrections that show the language of a project in which nobody wrote another one before."""
CLEAR_GAIN = 0.05
"""Random words bring up to 0.04, because the memory suggests as many of them as annotators write."""
SHUFFLES = 999
DRAWS = 1000
UNFAMILIAR = 0.2
"""Mean cosine between images from which on they are of a kind of their own. It was 0.05 for photos of the bundle's
kind, 0.10 for photos of a wider world, and 0.40 to 0.46 for aerial photos, flowers and product photos."""
OTHER_KIND = 0.05
"""Share of the corrected images that are as far from all others as an image of another kind."""
SLACK = 0.02
APART = 0.8
"""Share of the corrected images that are more like each other than like images of the bundle, in a kind of its own."""
SLACK_BESIDE_OWN = 0.03
"""The limit is lower by this where images of the bundle show which images are of another kind."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What some corrections show."""

    corrections: int
    chance: float
    """Share of random shuffles of the captions that suit the images as well (Fisher 1935); 0.5 on average for captions
    that say nothing about their images."""
    gain: float
    """Similarity of the memory's captions to what annotators wrote, minus that of the decoder's; mean."""
    gains_in: float
    """Share of bootstrap samples (Efron 1979) in which that is above 0."""
    alikeness: float
    """Mean cosine between the images."""
    readable: float
    """Share of the words that the decoder knows."""
    is_whole_project: bool = False
    """The project has hardly any other corrections."""
    was_open: bool = False
    """The memory spoke before these corrections were judged. It does not stop for a little doubt."""
    experiment: Experiment | None = None
    """What annotators kept of captions that they were shown; None without enough of them, or without a share of images
    that is left to the decoder."""

    @property
    def is_unfamiliar(self) -> bool:
        """The images are of another kind than those that the bundle was trained on."""
        return self.alikeness >= UNFAMILIAR

    @property
    def is_relevant(self) -> bool:
        """The captions say something about their images, so their words can be compared with the decoder's."""
        return self.corrections >= FEWEST and self.chance <= RELEVANT

    @property
    def speaks_for_memory(self) -> bool:
        """The memory may suggest captions."""
        if self.corrections < FEWEST or (self.experiment is not None and self.experiment.is_lost):
            return False
        is_preferred = self.experiment is not None and self.experiment.is_won
        if not self.is_unfamiliar or self.readable < READABLE:
            # One batch in a wrong language is a mistake. A deliberate change of language continues.
            enough = OWN_LANGUAGE if self.is_whole_project else ENOUGH
            is_enough = self.readable >= FOREIGN or self.corrections >= enough
            return is_enough and self.chance <= 0.01 and (is_preferred or self.gains_in >= 0.8)
        doubt = RELEVANT if self.was_open else 0.05 if self.corrections < FIRST else 0.02
        is_clear = self.chance <= doubt
        if is_clear and (is_preferred or self.gains_in >= 0.2):
            return True
        # Captions of flowers are much alike, so their relevance shows late, but the gain shows at once.
        shows_gain = self.gain >= CLEAR_GAIN and self.gains_in >= 0.99
        return self.chance <= min(0.5, PATIENCE / self.corrections) and shows_gain


def weigh_evidence(
    vectors: NDArray[np.float32],
    captions: Sequence[Words],
    decoded: Sequence[Sequence[Words]],
    was_written_unseen: Sequence[bool],
    vocabulary: frozenset[str],
    *,
    is_whole_project: bool = False,
) -> Evidence:
    """Judge corrections by each other.

    Args:
        vectors: of the corrected images, [N, V]; at least two.
        captions: what annotators wrote, N.
        decoded: the decoder's captions of each image, best first.
        was_written_unseen: the annotator of the image saw no suggestion. If there are enough of these, only they show
            the gain.
        vocabulary: words that the decoder knows.
        is_whole_project: there are hardly any other corrections.
    """
    count = len(captions)
    rarity = Rarity(captions)
    cosines = _cosines(vectors)
    weights = np.zeros((count, count), np.float32)
    gains = np.zeros(count, np.float32)
    for row in range(count):
        others = np.delete(np.arange(count), row)
        nearest = others[np.argsort(-cosines[row, others])][:NEAREST]
        weights[row, nearest] = vote_weights(vectors[row], vectors[nearest])
        near = [captions[place] for place in nearest]
        candidates = [near[place] for place in heaviest(weights[row, nearest], near)] + list(decoded[row])
        chosen = candidates[choose(candidates, near, weights[row, nearest], rarity)]
        with_memory, without = similarities([chosen, decoded[row][0]], [captions[row]], rarity)[:, 0]
        gains[row] = with_memory - without
    random = np.random.default_rng(SEED)
    if sum(was_written_unseen) >= ENOUGH_UNSEEN:
        gains = gains[np.array(was_written_unseen)]
    drawn = gains[random.integers(0, len(gains), (DRAWS, len(gains)))].mean(axis=1)
    words = [word for caption in captions for word in caption]
    return Evidence(
        corrections=count,
        chance=_chance(weights, _shared_words(captions, rarity), random),
        gain=float(gains.mean()),
        gains_in=float((drawn > 0).mean()),
        alikeness=float(cosines[~np.eye(count, dtype=bool)].mean()),
        readable=sum(word in vocabulary for word in words) / max(len(words), 1),
        is_whole_project=is_whole_project,
    )


def likeness_limit(vectors: NDArray[np.float32]) -> float:
    """Return the cosine that nearly all corrected images reach with the one that is most like them.

    Args:
        vectors: of corrected images, [N, V]; at least two.
    """
    cosines = _cosines(vectors)
    np.fill_diagonal(cosines, -1.0)
    return float(np.quantile(cosines.max(axis=1), OTHER_KIND, method="lower")) - SLACK


def are_alike(
    cosines: NDArray[np.float32], limit: float, to_own: NDArray[np.float32] | None = None
) -> NDArray[np.bool_]:
    """Say of each of N images whether it is of the kind of the corrected images.

    Args:
        cosines: of each image and the corrected image that is most like it, [N].
        limit: of `likeness_limit`.
        to_own: cosines of each image and the bundle's image that is most like it, [N], where the corrected images are
            apart from those. An image that is nearer to one of the bundle is of the bundle's kind.
    """
    if to_own is None:
        return np.asarray(cosines >= limit)
    return np.asarray((cosines > to_own) & (cosines >= limit - SLACK_BESIDE_OWN))


def are_apart(vectors: NDArray[np.float32], to_own: NDArray[np.float32] | None) -> bool:
    """Say whether nearly all corrected images are more like each other than like images of the bundle.

    Args:
        vectors: of the corrected images, [N, V]; at least two.
        to_own: cosines of each of them and the bundle's image that is most like it, [N]; None without such images.
    """
    if to_own is None:
        return False
    cosines = _cosines(vectors)
    np.fill_diagonal(cosines, -1.0)
    return bool((cosines.max(axis=1) > to_own).mean() >= APART)


def _cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors @ vectors.T


def _shared_words(captions: Sequence[Words], rarity: Rarity) -> NDArray[np.float32]:
    """Return the cosine between the words of captions, weighted by rarity, [N, N]. It tells images apart with fewer
    captions than phrases do."""
    columns = {word: column for column, word in enumerate(sorted({word for words in captions for word in words}))}
    matrix = np.zeros((len(captions), max(len(columns), 1)), np.float32)
    for row, words in enumerate(captions):
        for word in words:
            matrix[row, columns[word]] = rarity.of((word,))
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    return np.asarray(matrix @ matrix.T, np.float32)


def _chance(weights: NDArray[np.float32], shared: NDArray[np.float32], random: np.random.Generator) -> float:
    """Return the share of shuffles, this one included, in which look-alike images share as many words."""
    chosen = float((weights * shared).sum())
    as_well = 0
    for _ in range(SHUFFLES):
        order = random.permutation(len(shared))
        as_well += float((weights * shared[order][:, order]).sum()) >= chosen - 1e-5
    return (1 + as_well) / (1 + SHUFFLES)
