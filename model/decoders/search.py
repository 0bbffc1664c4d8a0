"""Beam search over all images and beams at once, with diverse beam search for alternatives to the best caption.

The search knows nothing of networks: it asks a decoder for the most probable next tokens of each beam. So torch
(model/decoders/base.py) and ONNX Runtime (model/runtime/onnx_decoder.py) write captions by the same search.

Shapes:  B images   R rows, one per beam: those of an image are adjacent   C candidates   T tokens   P regions
         D feature size   V vocabulary
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import SettingsError
from model.tokenizer import END, PAD, START

NEVER = float("-inf")
DIVERSITY = 1.0
"""Penalty in nats on a word, for each earlier group that has the same word at the same place
(chosen in tests/benchmarks/RESULTS.md)."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Options of the search for captions."""

    beam_size: int = 3
    alternatives: int = 1
    """Number of captions per image: the best of the beam, and alternatives that must differ from it."""
    length_penalty: float = 0.7
    """Hypotheses are ranked by log_prob / length ** length_penalty (Wu et al. 2016, section 7, simplified,
    https://arxiv.org/abs/1609.08144)."""
    max_tokens: int = 40
    """A caption without an end is cut after this many tokens."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "alternatives", "max_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def candidates(self) -> int:
        """Next tokens of each beam that the search needs: enough remain if some end a caption or are penalised."""
        return max(2 * self.beam_size, self.beam_size + self.alternatives)


class NextTokens(NamedTuple):
    """The most probable next tokens of each row, the best first."""

    log_probs: NDArray[np.float32]
    """Natural logarithms of their probabilities, [R, C]."""
    tokens: NDArray[np.int64]
    """[R, C]"""
    attention: NDArray[np.float32]
    """Weights over the regions with which they were predicted, [R, P]."""


class Reading(Protocol):
    """Images that a decoder has looked at, and the captions that it has read so far."""

    def step(self, tokens: Sequence[int], parents: Sequence[int], images: Sequence[int]) -> NextTokens:
        """Read one token in each row and predict the next ones.

        Args:
            tokens: the last token of each row, R.
            parents: the row of the last step that each row continues, R. Before the first step there is one row for
                each image.
            images: the images that remain, in order; each has R / len(images) rows.
        """
        ...


class WordDecoder(Protocol):
    """A decoder, whatever computes it."""

    def begin(self, features: NDArray[Any], candidates: int) -> Reading:
        """Look at images with features [B, P, D], to predict this many next tokens at each step."""
        ...

    def predict(self, features: NDArray[Any], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predict every token of captions from the tokens before it (teacher forcing).

        Args:
            features: of the image of each caption, [B, P, D].
            tokens: of the captions from start to end, padded at the right, [B, T].

        Returns:
            logits [M, V] of all tokens but start and padding, caption after caption.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One finished caption of one image."""

    token_ids: tuple[int, ...]
    """Without start and end."""
    log_prob: float
    """Natural log of the probability of all tokens, the end included."""
    rank_score: float
    """log_prob with the length penalty; higher is better."""
    attention: NDArray[np.float32]
    """Weights over the regions for each token, [T, P]."""


def beam_search(decoder: WordDecoder, features: ArrayLike, options: DecodingOptions) -> list[list[Hypothesis]]:
    """Return the hypotheses of each image of features [B, P, D].

    The best of the beam comes first, then the alternatives, then the rest of the beam; the last two are sorted by rank.
    Each alternative is a group with a single hypothesis in diverse beam search with Hamming diversity (Vijayakumar et
    al. 2016, https://arxiv.org/abs/1610.02424). The beam is the first group, so alternatives do not change its results.
    """
    described = np.asarray(features)
    images = list(range(len(described)))
    if not images:
        return []
    reading = decoder.begin(described, options.candidates)
    searches = [ImageSearch(options) for _ in images]
    tokens, parents = [START] * len(images), images
    for _ in range(options.max_tokens):
        following = reading.step(tokens, parents, images)
        log_probs, candidates = following.log_probs.tolist(), following.tokens.tolist()
        width = len(tokens) // len(images)
        remaining, tokens, parents = [], [], []
        for place, image in enumerate(images):
            search, rows = searches[image], slice(place * width, (place + 1) * width)
            search.grow(log_probs[rows], candidates[rows], following.attention[rows])
            if search.is_settled:
                continue  # Images whose captions are found leave the batch.
            remaining.append(image)
            tokens += [beam.tokens[-1] for beam in search.beams]
            parents += [place * width + beam.parent for beam in search.beams]
        images = remaining
        if not images:
            break
    return [search.hypotheses() for search in searches]


@dataclass(slots=True)
class Beam:
    """An unfinished caption."""

    log_prob: float
    tokens: tuple[int, ...]
    """With start."""
    attention: tuple[NDArray[np.float32], ...]
    """Weights over the regions, [P], for each token after start."""
    parent: int
    """Row of the last step that it continues, among the rows of its image."""
    row: int = 0
    """Its own row in the next step."""


class Group:
    """Beams that are searched together: the beam of the search, or a single alternative to it."""

    def __init__(self, size: int, options: DecodingOptions) -> None:
        self.size, self.options = size, options
        self.beams = [Beam(0.0, (START,), (), 0)]
        self.finished: list[Hypothesis] = []
        self.is_settled = False
        """There are enough captions, and the best unfinished beam ranks below all of them."""

    def grow(
        self,
        log_probs: Sequence[Sequence[float]],
        tokens: Sequence[Sequence[int]],
        attention: NDArray[np.float32],
        taken: Counter[int],
    ) -> None:
        """Extend the beams by their best next tokens. Hypotheses that end leave the beam.

        Args:
            log_probs: of the next tokens, by row of the image.
            tokens: the next tokens, by row.
            attention: by row, [rows, P].
            taken: how many beams of earlier groups have just chosen each token.
        """
        candidates = [
            (total - DIVERSITY * taken[token], total, token, beam)
            for beam in self.beams
            for log_prob, token in zip(log_probs[beam.row], tokens[beam.row], strict=True)
            if (total := beam.log_prob + log_prob) > NEVER
        ]
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        continuing: list[Beam] = []
        # Twice as many candidates as beams: if one per beam ends, enough others continue.
        for rank, (_, log_prob, token, beam) in enumerate(candidates[: 2 * self.size]):
            if token != END:
                weights = (*beam.attention, attention[beam.row])
                continuing.append(Beam(log_prob, (*beam.tokens, token), weights, beam.row))
            elif rank < self.size and not self.is_settled:
                # An end counts only among the first K candidates, where it ranks above the hypotheses that continue.
                self.finished.append(self._hypothesis(beam, log_prob, len(beam.tokens), attention.shape[1]))
        # A small vocabulary may leave fewer beams than there are rows; the rest lead nowhere.
        missing = [Beam(NEVER, (*self.beams[0].tokens, PAD), (), 0) for _ in range(self.size - len(continuing))]
        self.beams = [*continuing, *missing][: self.size]
        if len(self.finished) >= self.size:
            length = len(self.beams[0].tokens) - 1
            worst = sorted(hypothesis.rank_score for hypothesis in self.finished)[-self.size]
            self.is_settled = self._rank(max(beam.log_prob for beam in self.beams), length) <= worst

    def hypotheses(self) -> list[Hypothesis]:
        """Return the finished hypotheses, best first. If none has ended, cut the unfinished ones."""
        unfinished = [beam for beam in self.beams if beam.log_prob > NEVER and not self.finished]
        cut = [self._hypothesis(beam, beam.log_prob, len(beam.tokens) - 1, 0) for beam in unfinished]
        ranked = sorted([*self.finished, *cut], key=lambda hypothesis: hypothesis.rank_score, reverse=True)
        return ranked[: self.size]

    def _hypothesis(self, beam: Beam, log_prob: float, length: int, regions: int) -> Hypothesis:
        return Hypothesis(
            token_ids=beam.tokens[1:],
            log_prob=log_prob,
            rank_score=self._rank(log_prob, length),
            attention=np.stack(beam.attention) if beam.attention else np.zeros((0, regions), np.float32),
        )

    def _rank(self, log_prob: float, length: int) -> float:
        return float(log_prob / max(length, 1) ** self.options.length_penalty)


class ImageSearch:
    """The search for the captions of one image: its beam, then a group for each alternative."""

    def __init__(self, options: DecodingOptions) -> None:
        self.groups = [Group(size, options) for size in (options.beam_size, *[1] * (options.alternatives - 1))]

    @property
    def is_settled(self) -> bool:
        return all(group.is_settled for group in self.groups)

    @property
    def beams(self) -> list[Beam]:
        """The beams of all groups, in the order of their rows."""
        return [beam for group in self.groups for beam in group.beams]

    def grow(
        self, log_probs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]], attention: NDArray[np.float32]
    ) -> None:
        """Extend each group; a token that an earlier group has just chosen costs the later ones a penalty."""
        taken: Counter[int] = Counter()
        for group in self.groups:
            group.grow(log_probs, tokens, attention, taken)
            taken.update(beam.tokens[-1] for beam in group.beams)
        for row, beam in enumerate(self.beams):
            beam.row = row

    def hypotheses(self) -> list[Hypothesis]:
        """Return the hypotheses in order. The first group is the beam."""
        (best, *rest), *groups = (group.hypotheses() for group in self.groups)
        alternatives = [hypothesis for group in groups for hypothesis in group]
        return [best, *sorted(alternatives, key=lambda hypothesis: hypothesis.rank_score, reverse=True), *rest]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits [M, V]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
