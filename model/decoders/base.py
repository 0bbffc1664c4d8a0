"""Base class of caption decoders. A decoder projects an image once, then predicts one word at a time.

The decoders are in `model/decoders/recurrent.py` and `model/decoders/transformer.py`.

Shapes:  B batch   K beams   N captions   T tokens   M predicted tokens of all captions   P regions   D feature size
         V vocabulary   E embedding   H hidden   A attention   L layers
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from model.decoders.cells import CELLS
from model.errors import BundleError
from model.tokenizer import PAD

TRANSFORMER = "transformer"


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """Sizes of the network; they are stored with its weights."""

    vocabulary: int
    features: int
    hidden: int = 512
    embedding: int = 512
    attention: int = 512
    """0 replaces attention by the mean over all regions (Vinyals et al. 2015, https://arxiv.org/abs/1411.4555)."""
    layers: int = 1
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn` or `transformer`."""
    recurrent_regions: bool = False
    """An LSTM reads the regions row by row, in both directions, before attention (Shi et al. 2015,
    https://arxiv.org/abs/1507.05717). Each region then also describes those around it."""
    residual: bool = False
    """Each layer above the first adds the output of the layer below to its own."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "features", "hidden", "embedding", "attention", "layers"):
            value, least = getattr(self, name), 0 if name == "attention" else 1
            if not isinstance(value, int) or value < least:
                raise BundleError(f"decoder size {name} must be {least} or more, got {value!r}")
        if self.recurrent_regions and self.hidden % 2:
            raise BundleError(f"decoder size hidden must be even to read regions in both directions, got {self.hidden}")
        if self.cell not in (*CELLS, TRANSFORMER):
            raise BundleError(f"decoder cell must be one of {', '.join(CELLS)}, {TRANSFORMER}, got {self.cell!r}")


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


def predicted(tokens: Tensor) -> Tensor:
    """Return the tokens of captions [N, T] that a decoder predicts: all but start and padding, [M]."""
    following = tokens[:, 1:]
    return following[following != PAD]


def pick_images(parts: Parts, images: Tensor | slice) -> Parts:
    """Return memory or state of these images."""
    return type(parts)(*(part[images] for part in parts))
