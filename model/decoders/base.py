"""Base class of caption decoders. A decoder projects an image once, then predicts one word at a time.

The decoders are in `model/decoders/recurrent.py` and `model/decoders/transformer.py`.

Shapes:  B batch   K beams   N captions   T tokens   M predicted tokens of all captions   P regions   D feature size
         V vocabulary   E embedding   H hidden   A attention   L layers
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.decoders.search import NEVER, NextTokens
from model.decoders.sizes import DecoderSizes
from model.errors import BundleError
from model.tokenizer import END, FIRST_WORD, PAD, SPELL, START


class Memory(NamedTuple):
    """Projections of an image, computed once for all its captions."""

    keys: Tensor
    """Compared with the decoder's state by attention, [B, P, A]."""
    values: Tensor
    """Averaged by attention, [B, P, H]."""


class DecoderState(NamedTuple):
    """State of the decoder between two words."""

    hidden: Tensor
    """Hidden state of each layer, [B, K, L, H]; in a transformer the inputs of each layer so far, [B, K, L, T, H]."""
    cell: Tensor
    """Memory of each layer, [B, K, L, H]; a transformer has none, [B, K, 0]."""
    context: Tensor
    """Attention's output for the last word, [B, K, H]."""


Parts = TypeVar("Parts", Memory, DecoderState)


class CaptionDecoder(nn.Module):
    """Writes captions from features. The word embedding is also the output layer (Press and Wolf 2017,
    https://arxiv.org/abs/1608.05859)."""

    def __init__(self, sizes: DecoderSizes, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("feature_mean", torch.zeros(sizes.features))
        self.register_buffer("feature_scale", torch.ones(sizes.features))
        self.value = nn.Linear(sizes.features, sizes.hidden)
        if sizes.recurrent_regions:
            self.around = nn.LSTM(sizes.hidden, sizes.hidden // 2, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.dropout = nn.Dropout(dropout)
        self.feature_dropout = nn.Dropout(dropout)
        self.trainable_stages: nn.Module | None = None
        """Last stages of the encoder, only while they are trained with the decoder. They give it its features."""
        nn.init.normal_(self.embedding.weight, std=sizes.embedding**-0.5)

    @property
    def device(self) -> torch.device:
        return self.bias.device

    def standardise(self, features: Tensor) -> None:
        """Measure features [..., D], so that each channel is scaled to mean 0 and deviation 1 from now on."""
        flat = features.flatten(0, -2).float()
        self.feature_mean = flat.mean(dim=0)
        self.feature_scale = 1 / (flat.std(dim=0) + 1e-3)

    def remember(self, features: Tensor) -> Memory:
        """Return the projections of encoder features [B, P, D]."""
        raise NotImplementedError

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first word, with one beam."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """Read one word of each beam and predict the next.

        Args:
            tokens: the last word of each beam, [B, K].
            state: the state before it.
            memory: projections of the images; the beams of an image share them.

        Returns:
            logits [B, K, V], the next state, and attention weights [B, K, P] (each row sums to 1).
        """
        raise NotImplementedError

    def begin(self, features: NDArray[Any], candidates: int) -> "TorchReading":
        """Look at images, as `model.decoders.search.WordDecoder` says."""
        return TorchReading(self, torch.as_tensor(features).to(self.device).float(), candidates)

    @torch.inference_mode()
    def predict(self, features: NDArray[Any], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predict every token of captions, as `model.decoders.search.WordDecoder` says."""
        images = torch.as_tensor(features).to(self.device).float()
        logits: Tensor = self(images, torch.as_tensor(tokens).to(self.device))
        return np.asarray(logits.cpu().numpy())

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        """Predict every token of every caption from the tokens before it (teacher forcing).

        Args:
            features: of the images, [B, P, D].
            tokens: of the captions from start to end, padded at the right, [N, T].
            images: row of the image that each caption describes, [N]; None if caption n describes image n.

        Returns:
            logits [M, V] of the tokens that `predicted` returns, caption after caption.
        """
        raise NotImplementedError

    def widened(self, vocabulary: int) -> Self:
        """Return a copy with a larger vocabulary; the logits of the old words stay the same.

        A new row starts as the mean embedding, with the smallest bias of all, so that an untrained word is improbable.
        """
        added = vocabulary - self.sizes.vocabulary
        if added < 0:
            raise BundleError(f"a vocabulary of {self.sizes.vocabulary} words cannot shrink to {vocabulary}")
        wide = type(self)(replace(self.sizes, vocabulary=vocabulary), dropout=self.dropout.p)
        wide.trainable_stages = self.trainable_stages
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        old = weights["embedding.weight"]
        weights["embedding.weight"] = torch.cat([old, old.mean(dim=0, keepdim=True).expand(added, -1)])
        weights["bias"] = torch.cat([weights["bias"], weights["bias"].min().expand(added)])
        wide.load_state_dict(weights)
        return wide.train(self.training)

    def _values(self, features: Tensor) -> Tensor:
        """Return the projections that attention averages, [B, P, H]."""
        if self.trainable_stages is not None:
            features = self.trainable_stages(features)
        features = (features - self.feature_mean) * self.feature_scale
        values = torch.relu(self.value(self.feature_dropout(features)))
        return values + self.around(values)[0] if self.sizes.recurrent_regions else values

    def _score(self, output: Tensor) -> Tensor:
        """Return logits [..., V] of an output [..., E]."""
        return nn.functional.linear(self.dropout(torch.tanh(output)), self.embedding.weight, self.bias)


class TorchReading:
    """Images and captions that a decoder has read, as `model.decoders.search.Reading` says."""

    @torch.inference_mode()
    def __init__(self, decoder: CaptionDecoder, features: Tensor, candidates: int) -> None:
        self._decoder, self._candidates = decoder, candidates
        self._memory = self._of_all = decoder.remember(features)
        self._state = decoder.start(self._memory)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], parents: Sequence[int], images: Sequence[int]) -> NextTokens:
        device = self._of_all.keys.device
        if len(images) != len(self._memory.keys):
            self._memory = pick_images(self._of_all, torch.tensor(images, device=device))
        shape = len(images), len(tokens) // len(images)
        rows = torch.tensor(parents, device=device)
        state = DecoderState(*(part.flatten(0, 1)[rows].view(*shape, *part.shape[2:]) for part in self._state))
        last = torch.tensor(tokens, device=device).view(shape)
        logits, self._state, attention = self._decoder.step(last, state, self._memory)
        log_probs = log_probabilities(logits.float())
        best = log_probs.topk(min(self._candidates, log_probs.shape[-1]), dim=-1)
        parts = (best.values, best.indices, attention.float())
        return NextTokens(*(part.flatten(0, 1).cpu().numpy() for part in parts))


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


def predicted(tokens: Tensor) -> Tensor:
    """Return the tokens of captions [N, T] that a decoder predicts: all but start and padding, [M]."""
    following = tokens[:, 1:]
    return following[following != PAD]


def pick_images(parts: Parts, images: Tensor | slice) -> Parts:
    """Return memory or state of these images."""
    return type(parts)(*(part[images] for part in parts))
