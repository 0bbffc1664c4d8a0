"""Beam search over all images and beams at once.

Shapes:  B batch   K beams   T tokens so far   P regions   V vocabulary
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.decoders.base import CaptionDecoder, DecoderState, Memory
from model.errors import SettingsError
from model.tokenizer import END, FIRST_WORD, PAD, SPELL, START

NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How captions are searched for."""

    beam_size: int = 3
    alternatives: int = 1
    """How many captions per image; the beam is widened to it if need be."""
    length_penalty: float = 0.7
    """A hypothesis is ranked by log_prob / length ** length_penalty (Wu et al. 2016, section 7, simplified)."""
    max_tokens: int = 40
    """A caption without an end is cut here."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "alternatives", "max_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def beams(self) -> int:
        return max(self.beam_size, self.alternatives)


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
    """Return for each image of features [B, P, D] the best `options.beams` hypotheses, best first."""
    if not len(features):
        return []
    memory = decoder.remember(features)
    beams = Beams(decoder.start(memory), memory, options)
    for _ in range(options.max_tokens):
        logits, state, weights = decoder.step(beams.last_tokens, beams.state, memory)
        beams.grow(log_probabilities(logits), state, weights)
        if beams.settled.all():
            break
    return beams.hypotheses()


@torch.no_grad()
def sample_captions(decoder: CaptionDecoder, features: Tensor, samples: int, max_tokens: int) -> Tensor:
    """Draw captions word by word as probable as the decoder finds them.

    Args:
        decoder: in evaluation mode.
        features: of the images, [B, P, D].
        samples: captions of each image, K.
        max_tokens: a caption without an end is cut here.

    Returns:
        tokens [B * K, T] from start to end, padded at the right; the samples of an image follow each other.
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
    """Return log-probabilities [..., V] in which padding and start never come, and words are never spelled.

    Spelling lets every caption be read; a decoder that wrote its own would invent words. A word that a correction
    brings becomes a token of its own before the decoder learns it.
    """
    logits[..., [PAD, START]] = NEVER
    logits[..., SPELL:FIRST_WORD] = NEVER
    return logits.log_softmax(dim=-1)


class Beams:
    """The growing hypotheses of a batch, and the best finished ones of each image."""

    def __init__(self, state: DecoderState, memory: Memory, options: DecodingOptions) -> None:
        images, regions = memory.keys.shape[:2]
        beams, device = options.beams, memory.keys.device
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

    def grow(self, log_probs: Tensor, state: DecoderState, weights: Tensor) -> None:
        """Extend each image's beams by their best next tokens; those that end leave the beam."""
        images, _, vocabulary = log_probs.shape
        totals = (self.log_probs.unsqueeze(-1) + log_probs).view(images, -1)
        # Twice as many candidates as beams: even if one per beam ends, enough go on.
        best, index = totals.topk(min(2 * self._beams, totals.shape[1]), dim=-1)  # [B, 2K]
        parent, token = index // vocabulary, index % vocabulary
        self._finish(best, parent, token)
        going_on = best.masked_fill(token == END, NEVER).topk(self._beams, dim=-1)
        self.log_probs = going_on.values
        self._follow(parent.gather(1, going_on.indices), token.gather(1, going_on.indices), state, weights)
        self._settle()

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Return the finished hypotheses, best first; captions cut at the limit only where none has ended."""
        for image, finished in enumerate(self.finished):
            if not finished:
                for beam in range(self._beams):
                    if self.log_probs[image, beam] > NEVER:
                        finished.append(self._cut(image, beam))
        ranked = (sorted(found, key=lambda h: h.rank_score, reverse=True) for found in self.finished)
        return [found[: self._beams] for found in ranked]

    def _finish(self, best: Tensor, parent: Tensor, token: Tensor) -> None:
        ended = (token == END) & (best > NEVER)
        # Only an end among the first K candidates counts: it has beaten what would go on.
        ended[:, self._beams :] = False
        ended[self.settled] = False
        for image, candidate in ended.nonzero().tolist():
            beam = int(parent[image, candidate])
            log_prob = float(best[image, candidate])
            self.finished[image].append(
                Hypothesis(
                    token_ids=tuple(self.tokens[image, beam, 1:].tolist()),
                    log_prob=log_prob,
                    rank_score=self._rank(log_prob, self.tokens.shape[2]),
                    attention=self.attention[image, beam].clone(),
                )
            )

    def _follow(self, parent: Tensor, token: Tensor, state: DecoderState, weights: Tensor) -> None:
        self.state = DecoderState(*(pick(part, parent) for part in state))
        self.tokens = torch.cat([pick(self.tokens, parent), token.unsqueeze(-1)], dim=-1)
        seen = torch.cat([self.attention, weights.unsqueeze(2)], dim=2)
        self.attention = pick(seen, parent)

    def _settle(self) -> None:
        """An image is settled once it has enough captions and its best open beam ranks below the worst of them."""
        length = self.tokens.shape[2] - 1
        leading = self.log_probs.max(dim=1).values.tolist()
        for image, finished in enumerate(self.finished):
            if len(finished) >= self._beams:
                worst = sorted(h.rank_score for h in finished)[-self._beams]
                self.settled[image] = self._rank(leading[image], length) <= worst

    def _cut(self, image: int, beam: int) -> Hypothesis:
        log_prob = float(self.log_probs[image, beam])
        return Hypothesis(
            token_ids=tuple(self.tokens[image, beam, 1:].tolist()),
            log_prob=log_prob,
            rank_score=self._rank(log_prob, self.tokens.shape[2] - 1),
            attention=self.attention[image, beam],
        )

    def _rank(self, log_prob: float, length: int) -> float:
        return float(log_prob / max(length, 1) ** self.options.length_penalty)


def pick(values: Tensor, beams: Tensor) -> Tensor:
    """Return values [B, K, ...] reordered along the beams by index [B, K']."""
    index = beams.view(*beams.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)
