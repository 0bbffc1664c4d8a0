"""The attention LSTM that writes captions (Xu et al. 2015, https://arxiv.org/abs/1502.03044).

Shapes:  B batch   K beams (1 in training)   T tokens   P regions   D feature size
         V vocabulary   E embedding   H hidden   A attention
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """The sizes of the network; they belong to the checkpoint."""

    vocabulary: int
    features: int
    hidden: int = 512
    embedding: int = 512
    attention: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise BundleError(f"decoder size {name} must be 1 or more, got {value!r}")


class Memory(NamedTuple):
    """What the decoder keeps of an image, computed once per caption."""

    keys: Tensor
    """What attention compares with, [B, P, A]."""
    values: Tensor
    """What attention averages, [B, P, H]."""


class DecoderState(NamedTuple):
    """The recurrent state, [B, K, H] each."""

    hidden: Tensor
    cell: Tensor
    context: Tensor
    """What attention saw for the last word."""


class AttentionDecoder(nn.Module):
    """LSTM over words, with soft attention over image regions at every step.

    Attention looks after the LSTM has read the last word, so "red" decides which region names its shape; what it saw
    is read with the next word (input feeding, Luong et al. 2015, section 3.3, https://arxiv.org/abs/1508.04025).
    The word embedding is shared with the output layer (Press and Wolf 2017, https://arxiv.org/abs/1608.05859).
    Wide features are projected to the hidden size once per image, keys and values before the first step.
    """

    def __init__(self, sizes: DecoderSizes, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.value = nn.Linear(sizes.features, sizes.hidden)
        self.key = nn.Linear(sizes.hidden, sizes.attention)
        self.query = nn.Linear(sizes.hidden, sizes.attention, bias=False)
        self.energy = nn.Linear(sizes.attention, 1, bias=False)
        self.gate = nn.Linear(sizes.hidden, sizes.hidden)
        self.first = nn.Linear(sizes.hidden, 2 * sizes.hidden)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.from_word = nn.Linear(sizes.embedding, 4 * sizes.hidden)
        self.recurrent = nn.Linear(2 * sizes.hidden, 4 * sizes.hidden, bias=False)
        self.readout = nn.Linear(2 * sizes.hidden, sizes.embedding)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=sizes.embedding**-0.5)

    def remember(self, features: Tensor) -> Memory:
        """Project encoder features [B, P, D] once, for all steps and beams."""
        values = torch.relu(self.value(self.dropout(features)))
        return Memory(self.key(values), values)

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first word, from the mean over regions; one beam."""
        mean = memory.values.mean(dim=1, keepdim=True)
        hidden, cell = torch.tanh(self.first(mean)).chunk(2, dim=-1)
        return DecoderState(hidden, cell, mean)

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """Read one word and predict the next.

        Args:
            tokens: the last word of each beam, [B, K].
            state: the state before it.
            memory: the images, shared by their beams.

        Returns:
            logits [B, K, V], the next state, and attention weights [B, K, P] (each row sums to 1).
        """
        word = self.embedding(tokens)
        state, weights = self._recur(self.from_word(word), state, memory)
        return self._logits(word, state.hidden, state.context), state, weights

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: logits [B, T, V] of the word after each of tokens [B, T], given features [B, P, D]."""
        memory = self.remember(features)
        state = self.start(memory)
        words = self.dropout(self.embedding(tokens))  # [B, T, E]
        inputs = self.from_word(words)
        hidden, contexts = [], []
        for t in range(tokens.shape[1]):
            state, _ = self._recur(inputs[:, t : t + 1], state, memory)
            hidden.append(state.hidden)
            contexts.append(state.context)
        return self._logits(words, torch.cat(hidden, dim=1), torch.cat(contexts, dim=1))

    def widened(self, vocabulary: int) -> "AttentionDecoder":
        """Return a copy with room for more words; what it says of the old ones is unchanged.

        New rows start as the mean embedding with a bias that makes them improbable until they are trained.
        """
        added = vocabulary - self.sizes.vocabulary
        if added < 0:
            raise BundleError(f"a vocabulary of {self.sizes.vocabulary} words cannot shrink to {vocabulary}")
        wide = AttentionDecoder(DecoderSizes(**{**vars(self.sizes), "vocabulary": vocabulary}), dropout=self.dropout.p)
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        old = weights["embedding.weight"]
        weights["embedding.weight"] = torch.cat([old, old.mean(dim=0, keepdim=True).expand(added, -1)])
        weights["bias"] = torch.cat([weights["bias"], weights["bias"].min().expand(added)])
        wide.load_state_dict(weights)
        return wide.train(self.training)

    def _recur(self, inputs: Tensor, state: DecoderState, memory: Memory) -> tuple[DecoderState, Tensor]:
        gates = inputs + self.recurrent(torch.cat([state.context, state.hidden], dim=-1))  # [B, K, 4H]
        forget, enter, leave, candidate = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget + 1) * state.cell + torch.sigmoid(enter) * torch.tanh(candidate)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        context, weights = self._attend(hidden, memory)
        return DecoderState(hidden, cell, context), weights

    def _attend(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Additive attention, gated by the state (Xu et al. 2015, sections 3.1.2 and 4.2.1)."""
        mixed = (memory.keys.unsqueeze(1) + self.query(hidden).unsqueeze(2)).tanh_()  # [B, K, P, A]
        weights = self.energy(mixed).squeeze(-1).softmax(dim=-1)  # [B, K, P]
        context = torch.sigmoid(self.gate(hidden)) * (weights @ memory.values)  # [B, K, H]
        return context, weights

    def _logits(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        read = torch.tanh(word + self.readout(self.dropout(torch.cat([hidden, context], dim=-1))))
        logits: Tensor = nn.functional.linear(self.dropout(read), self.embedding.weight, self.bias)
        return logits
