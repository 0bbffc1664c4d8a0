"""What every caption decoder is: a vocabulary of its own, images remembered once, one word at a time.

The kinds are `model/decoders/recurrent.py` and `model/decoders/transformer.py`.

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
    """The shape of the network; it belongs to the checkpoint."""

    vocabulary: int
    features: int
    hidden: int = 512
    embedding: int = 512
    attention: int = 512
    """0 reads the mean over the regions at every step instead (Vinyals et al. 2015, https://arxiv.org/abs/1411.4555)."""
    layers: int = 1
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn`, or `transformer` for no recurrence at all."""
    recurrent_regions: bool = False
    """The regions are read in rows, forwards and backwards, before attention looks (Shi et al. 2015,
    https://arxiv.org/abs/1507.05717), so that each knows of those around it."""
    residual: bool = False
    """Each layer above the first adds what it reads from below to what it says."""

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
    """What the decoder keeps of an image, computed once per caption."""

    keys: Tensor
    """What attention compares with, [B, P, A]."""
    values: Tensor
    """What attention averages, [B, P, H]."""


class DecoderState(NamedTuple):
    """What is carried from word to word."""

    hidden: Tensor
    """Of each layer, [B, K, L, H]; of a transformer what each layer has read so far, [B, K, L, T, H]."""
    cell: Tensor
    """The memory of each layer, [B, K, L, H]; a transformer has none, [B, K, 0]."""
    context: Tensor
    """What attention saw for the last word, [B, K, H]."""


Parts = TypeVar("Parts", Memory, DecoderState)


class CaptionDecoder(nn.Module):
    """Writes captions of features; the word embedding is shared with the output layer (Press and Wolf 2017,
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
        self.tail: nn.Module | None = None
        """While an encoder's last stages are taught too: what makes features of what the stages below them see."""
        nn.init.normal_(self.embedding.weight, std=sizes.embedding**-0.5)

    @property
    def device(self) -> torch.device:
        return self.bias.device

    def standardise(self, features: Tensor) -> None:
        """Measure these features [..., D]: from now on each channel is read with mean 0 and deviation 1."""
        flat = features.flatten(0, -2).float()
        self.feature_mean = flat.mean(dim=0)
        self.feature_scale = 1 / (flat.std(dim=0) + 1e-3)

    def remember(self, features: Tensor) -> Memory:
        """Project encoder features [B, P, D] once, for all steps and beams."""
        raise NotImplementedError

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first word; one beam."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """Read one word and predict the next.

        Args:
            tokens: the last word of each beam, [B, K].
            state: the state before it.
            memory: the images, shared by their beams.

        Returns:
            logits [B, K, V], the next state, and attention weights [B, K, P] (each row sums to 1).
        """
        raise NotImplementedError

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        """Teacher forcing: predict every token of every caption from those before it.

        Args:
            features: of the images, [B, P, D].
            tokens: of the captions from start to end, padded at the right, [N, T].
            images: which image each caption describes, [N]; None when there is one caption per image, in order.

        Returns:
            logits [M, V] of the tokens that `predicted` names, caption after caption.
        """
        raise NotImplementedError

    def widened(self, vocabulary: int) -> Self:
        """Return a copy with room for more words, which shares the tail; what it says of the old ones is unchanged.

        New rows start as the mean embedding with a bias that makes them improbable until they are trained.
        """
        added = vocabulary - self.sizes.vocabulary
        if added < 0:
            raise BundleError(f"a vocabulary of {self.sizes.vocabulary} words cannot shrink to {vocabulary}")
        wide = type(self)(replace(self.sizes, vocabulary=vocabulary), dropout=self.dropout.p)
        wide.tail = self.tail
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        old = weights["embedding.weight"]
        weights["embedding.weight"] = torch.cat([old, old.mean(dim=0, keepdim=True).expand(added, -1)])
        weights["bias"] = torch.cat([weights["bias"], weights["bias"].min().expand(added)])
        wide.load_state_dict(weights)
        return wide.train(self.training)

    def _values(self, features: Tensor) -> Tensor:
        """Return what attention averages, [B, P, H]."""
        if self.tail is not None:
            features = self.tail(features)
        features = (features - self.feature_mean) * self.feature_scale
        values = torch.relu(self.value(self.feature_dropout(features)))
        return values + self.around(values)[0] if self.sizes.recurrent_regions else values

    def _score(self, read: Tensor) -> Tensor:
        """Return logits [..., V] of what is to be said, [..., E]."""
        return nn.functional.linear(self.dropout(torch.tanh(read)), self.embedding.weight, self.bias)


def predicted(tokens: Tensor) -> Tensor:
    """Return the tokens of captions [N, T] that a decoder predicts, all but start and padding, [M]."""
    following = tokens[:, 1:]
    return following[following != PAD]


def pick_images(parts: Parts, images: Tensor | slice) -> Parts:
    """Return memory or state of these images."""
    return type(parts)(*(part[images] for part in parts))
