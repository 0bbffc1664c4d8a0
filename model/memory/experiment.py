"""The experiment that DECODER_ALONE_SHARE makes: what annotators kept of captions of the memory and of the decoder.

Annotators edit the caption that they see, so a correction flatters the side that was shown. In the experiment each
side is measured by the captions that it showed itself. The hash of an image's content chooses the images that the
decoder captions alone while the memory is open. So the two groups of images differ by chance only.

A memory that loses the experiment closes, and then the experiment gets no new captions of the memory; the newest
corrections decide, so the memory may open again when the lost experiment is no longer among them.

Shapes:  N corrected images
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.memory.index import Nearest, Row
from model.memory.similarity import words_of

ENOUGH_SHOWN = 20
"""Corrections that each of the two groups needs."""
WON = 0.8
"""Share of the bootstrap samples in which annotators must keep more of the memory's captions."""
LOST = 0.95
"""Share of the bootstrap samples in which annotators must keep more of the decoder's captions."""
DRAWS = 1000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What annotators kept of the captions of the memory, compared with those of the decoder alone."""

    by_memory: int
    """Corrections whose annotators were shown a caption of the memory."""
    by_decoder: int
    """Corrections of images that chance left to the decoder."""
    gain: float
    """Share of the words that annotators kept of the memory's captions, minus that of the decoder's; mean."""
    gains_in: float
    """Share of bootstrap samples (Efron 1979) in which that is above 0."""
    losses_in: float
    """Share of bootstrap samples in which that is below 0."""

    @property
    def is_won(self) -> bool:
        """Annotators keep more of the memory's captions."""
        return self.gains_in >= WON

    @property
    def is_lost(self) -> bool:
        """Annotators clearly keep more of the decoder's captions."""
        return self.losses_in >= LOST


def find_experiment(corrected: Nearest, limit: float, is_left: Callable[[str], bool]) -> Experiment | None:
    """Return the experiment among corrections; None where one of the groups is too small.

    A caption of the decoder counts only if it was shown while the memory spoke: between the first and the last
    caption of the memory.

    Args:
        corrected: corrected images.
        limit: images whose cosine with all others is below it are left out. The memory never captions such images.
        is_left: says by the key of an image whether chance leaves it to the decoder.
    """
    rows = [row for row in _look_alikes(corrected, limit) if row.word_edits is not None]
    by_memory = [row for row in rows if row.shown_by == "memory"]
    ages = [row.age for row in by_memory]
    by_decoder = [
        row
        for row in rows
        if row.shown_by == "decoder" and is_left(row.image_key) and ages and min(ages) <= row.age <= max(ages)
    ]
    return compare([_kept(row) for row in by_memory], [_kept(row) for row in by_decoder])


def compare(by_memory: Sequence[float], by_decoder: Sequence[float]) -> Experiment | None:
    """Compare what annotators kept of each caption, 0 to 1, by bootstrap; None where one of the groups is too small."""
    if min(len(by_memory), len(by_decoder)) < ENOUGH_SHOWN:
        return None
    random = np.random.default_rng(SEED)
    # Equal means may differ in the last digits, which is no gain.
    drawn = (_drawn_means(by_memory, random) - _drawn_means(by_decoder, random)).round(6)
    return Experiment(
        by_memory=len(by_memory),
        by_decoder=len(by_decoder),
        gain=float(np.mean(by_memory) - np.mean(by_decoder)),
        gains_in=float((drawn > 0).mean()),
        losses_in=float((drawn < 0).mean()),
    )


def _look_alikes(corrected: Nearest, limit: float) -> list[Row]:
    """Return the rows whose image is like another of these images."""
    if len(corrected.rows) < 2:
        return []
    cosines = corrected.vectors @ corrected.vectors.T
    np.fill_diagonal(cosines, -1.0)
    is_alike = cosines.max(axis=1) >= limit
    return [row for row, alike in zip(corrected.rows, is_alike.tolist(), strict=True) if alike]


def _kept(row: Row) -> float:
    """Return the share of the written words that needed no edit."""
    return 1 - min((row.word_edits or 0) / max(len(words_of(row.caption)), 1), 1.0)


def _drawn_means(kept: Sequence[float], random: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean of each bootstrap sample, [DRAWS]; the order of the values does not matter."""
    values = np.sort(np.array(kept, np.float64))
    return np.asarray(values[random.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1))
