"""Beam search over all images and beams at once, with diverse beam search for alternatives to the best caption.

Shapes:  B batch   K beams   T tokens so far   P regions   V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.decoders.base import CaptionDecoder, DecoderState, Memory
from model.errors import SettingsError
from model.tokenizer import END, FIRST_WORD, PAD, SPELL, START

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


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One finished caption of one image."""

    token_ids: tuple[int, ...]
    """Without start and end."""
    log_prob: float
    """Natural log of the probability of all tokens, the end included."""
    rank_score: float
    """log_prob with the length penalty; higher is better."""
    attention: Tensor
    """Weights over the regions for each token, [T, P]."""


@torch.inference_mode()
def beam_search(decoder: CaptionDecoder, features: Tensor, options: DecodingOptions) -> list[list[Hypothesis]]:
    """Return the hypotheses of each image of features [B, P, D].

    The best of the beam comes first, then the alternatives, then the rest of the beam; the last two are sorted by rank.
    Each alternative is a group with a single hypothesis in diverse beam search with Hamming diversity (Vijayakumar et
    al. 2016, https://arxiv.org/abs/1610.02424). The beam is the first group, so alternatives do not change its results.
    """
    if not len(features):
        return []
    memory = decoder.remember(features)
    start = decoder.start(memory)
    groups = [Beams(start, memory, options, size) for size in (options.beam_size, *[1] * (options.alternatives - 1))]
    for _ in range(options.max_tokens):
        tokens, state = side_by_side([group.last_tokens for group in groups]), join([group.state for group in groups])
        logits, state, weights = decoder.step(tokens, state, memory)
        if len(groups) == 1:
            groups[0].grow(log_probabilities(logits), state, weights)
        else:
            grow_apart(groups, log_probabilities(logits), state, weights)
        if all(group.settled.all() for group in groups):
            break
    return [in_order(of_groups) for of_groups in zip(*(group.hypotheses() for group in groups), strict=True)]


@torch.no_grad()
def sample_captions(decoder: CaptionDecoder, features: Tensor, samples: int, max_tokens: int) -> Tensor:
    """Sample captions word by word from the decoder's probabilities.

    Args:
        decoder: in evaluation mode.
        features: of the images, [B, P, D].
        samples: number of captions per image, K.
        max_tokens: a caption without an end is cut after this many tokens.

    Returns:
        tokens [B * K, T] from start to end, padded at the right; the samples of an image are adjacent.
    """
    memory = decoder.remember(features)
    state = decoder.start(memory)
    state = DecoderState(*(part.expand(-1, samples, *part.shape[2:]) for part in state))
    tokens = torch.full((len(features) * samples, 1), START, device=features.device)
    for _ in range(max_tokens):
        last = tokens[:, -1]
        logits, state, _ = decoder.step(last.view(-1, samples), state, memory)
        drawn = log_probabilities(logits.float()).exp().flatten(0, 1).multinomial(1)
        ended = (last == END) | (last == PAD)
        if ended.all():
            break
        tokens = torch.cat([tokens, drawn.masked_fill(ended.unsqueeze(1), PAD)], dim=1)
    return tokens


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities [..., V] that exclude padding, start, and words that are spelled in bytes.

    Spelling exists so that every caption can be read. A decoder that spells would invent words; retraining gives each
    word of a correction a token of its own instead. Changes the logits in place.
    """
    logits[..., [PAD, START]] = NEVER
    logits[..., SPELL:FIRST_WORD] = NEVER
    return logits.log_softmax(dim=-1)


def grow_apart(groups: "Sequence[Beams]", log_probs: Tensor, state: DecoderState, weights: Tensor) -> None:
    """Extend each group by its next tokens, with a penalty on the tokens that earlier groups have just chosen."""
    widths = [group.last_tokens.shape[1] for group in groups]
    penalty = torch.zeros_like(log_probs[:, 0])  # [B, V]
    parts = zip(groups, apart(log_probs, widths), split(state, widths), apart(weights, widths), strict=True)
    for group, group_log_probs, group_state, group_weights in parts:
        group.grow(group_log_probs, group_state, group_weights, penalty)
        chosen = group.last_tokens
        penalty.scatter_add_(1, chosen, torch.full_like(chosen, DIVERSITY, dtype=penalty.dtype))


def in_order(of_groups: Sequence[list[Hypothesis]]) -> list[Hypothesis]:
    """Return the hypotheses of one image in order, given those of each group. The first group is the beam."""
    (best, *rest), *groups = of_groups
    alternatives = [hypothesis for group in groups for hypothesis in group]
    return [best, *sorted(alternatives, key=lambda h: h.rank_score, reverse=True), *rest]


class Beams:
    """The unfinished hypotheses of a batch, and the best finished ones of each image."""

    def __init__(self, state: DecoderState, memory: Memory, options: DecodingOptions, beams: int) -> None:
        images, regions = memory.keys.shape[:2]
        device = memory.keys.device
        self.options = options
        self.state = state  # [B, 1, H] before the first word, [B, K, H] after
        self.tokens = torch.full((images, 1, 1), START, device=device)  # [B, K, T]
        self.attention = memory.keys.new_zeros(images, 1, 0, regions)  # [B, K, T, P]
        self.log_probs = memory.keys.new_zeros(images, 1)  # [B, K]
        self.finished: list[list[Hypothesis]] = [[] for _ in range(images)]
        self.settled = torch.zeros(images, dtype=torch.bool, device=device)
        self._beams = beams

    @property
    def last_tokens(self) -> Tensor:
        return self.tokens[..., -1]

    def grow(self, log_probs: Tensor, state: DecoderState, weights: Tensor, penalty: Tensor | None = None) -> None:
        """Extend each image's beams by their best next tokens. Hypotheses that end leave the beam.

        Args:
            log_probs: of the next tokens, [B, K, V].
            state: after the last tokens.
            weights: of attention for the last tokens, [B, K, P].
            penalty: nats subtracted from each token, [B, V], when the best are chosen; log_prob stays without it.
        """
        images, _, vocabulary = log_probs.shape
        totals = self.log_probs.unsqueeze(-1) + log_probs
        scores = (totals if penalty is None else totals - penalty.unsqueeze(1)).view(images, -1)
        # Twice as many candidates as beams: if one per beam ends, enough others continue.
        ranks, index = scores.topk(min(2 * self._beams, scores.shape[1]), dim=-1)  # [B, 2K]
        parent, token = index // vocabulary, index % vocabulary
        best = totals.view(images, -1).gather(1, index)
        self._finish(best, parent, token)
        has_ended = token == END
        continuing = ranks.masked_fill(has_ended, NEVER).topk(self._beams, dim=-1).indices
        self.log_probs = best.masked_fill(has_ended, NEVER).gather(1, continuing)
        self._follow(parent.gather(1, continuing), token.gather(1, continuing), state, weights)
        self._settle()

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Return the finished hypotheses of each image, best first. If none has ended, cut the unfinished ones."""
        for image, finished in enumerate(self.finished):
            if not finished:
                for beam in range(self._beams):
                    log_prob = float(self.log_probs[image, beam])
                    if log_prob > NEVER:
                        finished.append(self._hypothesis(image, beam, log_prob, length=self.tokens.shape[2] - 1))
        ranked = (sorted(finished, key=lambda h: h.rank_score, reverse=True) for finished in self.finished)
        return [finished[: self._beams] for finished in ranked]

    def _finish(self, best: Tensor, parent: Tensor, token: Tensor) -> None:
        ended = (token == END) & (best > NEVER)
        # An end counts only among the first K candidates, where it ranks above the hypotheses that continue.
        ended[:, self._beams :] = False
        ended[self.settled] = False
        for image, candidate in ended.nonzero().tolist():
            beam = int(parent[image, candidate])
            log_prob = float(best[image, candidate])
            self.finished[image].append(self._hypothesis(image, beam, log_prob, length=self.tokens.shape[2]))

    def _follow(self, parent: Tensor, token: Tensor, state: DecoderState, weights: Tensor) -> None:
        self.state = DecoderState(*(pick(part, parent) for part in state))
        self.tokens = torch.cat([pick(self.tokens, parent), token.unsqueeze(-1)], dim=-1)
        self.attention = pick(torch.cat([self.attention, weights.unsqueeze(2)], dim=2), parent)

    def _settle(self) -> None:
        """Settle each image that has enough captions, if its best unfinished beam ranks below all of them."""
        length = self.tokens.shape[2] - 1
        leading = self.log_probs.max(dim=1).values.tolist()
        for image, finished in enumerate(self.finished):
            if len(finished) >= self._beams:
                worst = sorted(h.rank_score for h in finished)[-self._beams]
                self.settled[image] = self._rank(leading[image], length) <= worst

    def _hypothesis(self, image: int, beam: int, log_prob: float, length: int) -> Hypothesis:
        return Hypothesis(
            token_ids=tuple(self.tokens[image, beam, 1:].tolist()),
            log_prob=log_prob,
            rank_score=self._rank(log_prob, length),
            attention=self.attention[image, beam].clone(),
        )

    def _rank(self, log_prob: float, length: int) -> float:
        return float(log_prob / max(length, 1) ** self.options.length_penalty)


def join(states: Sequence[DecoderState]) -> DecoderState:
    """Return the states of several groups as one."""
    return DecoderState(*map(side_by_side, zip(*states, strict=True)))


def split(state: DecoderState, widths: Sequence[int]) -> list[DecoderState]:
    """Return the states of groups with these numbers of beams."""
    return [DecoderState(*parts) for parts in zip(*(apart(part, widths) for part in state), strict=True)]


def apart(beams: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the beams [B, K, ...] of groups with these numbers of beams."""
    return tuple(beams.split_with_sizes(list(widths), dim=1))


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return the beams [B, K, ...] of several groups in one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def pick(values: Tensor, beams: Tensor) -> Tensor:
    """Return values [B, K, ...] reordered along the beams by index [B, K']."""
    index = beams.view(*beams.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)
