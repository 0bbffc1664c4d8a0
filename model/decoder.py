"""The attention LSTM that writes captions (Xu et al. 2015, https://arxiv.org/abs/1502.03044), in one layer or stacked.

Shapes:  B batch   K beams   N captions   T tokens   M predicted tokens of all captions   P regions   D feature size
         V vocabulary   E embedding   H hidden   A attention   L layers   G gates of the cell
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model.cells import CELLS
from model.errors import BundleError
from model.tokenizer import PAD


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
    """`lstm`, `peephole`, `gru` or `rnn`."""
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
        if self.cell not in CELLS:
            raise BundleError(f"decoder cell must be one of {', '.join(CELLS)}, got {self.cell!r}")


class Memory(NamedTuple):
    """What the decoder keeps of an image, computed once per caption."""

    keys: Tensor
    """What attention compares with, [B, P, A]."""
    values: Tensor
    """What attention averages, [B, P, H]."""


class DecoderState(NamedTuple):
    """What is carried from word to word."""

    hidden: Tensor
    """Of each layer, [B, K, L, H]."""
    cell: Tensor
    """The memory of each layer, [B, K, L, H]."""
    context: Tensor
    """What attention saw for the last word, [B, K, H]."""


Parts = TypeVar("Parts", Memory, DecoderState)


class AttentionDecoder(nn.Module):
    """Recurrent layers over words, with soft attention over image regions at every step.

    Attention looks after the first layer has read the last word, so "red" decides which region names its shape; what it
    saw is read with the next word (input feeding, Luong et al. 2015, section 3.3, https://arxiv.org/abs/1508.04025).
    Layers above the first read it at once, beside the layer below, and the first reads the topmost one's last state
    (Anderson et al. 2018, section 3.2, https://arxiv.org/abs/1707.07998).

    The word embedding is shared with the output layer (Press and Wolf 2017, https://arxiv.org/abs/1608.05859).
    Wide features are projected to the hidden size once per image, keys and values before the first step.
    """

    def __init__(self, sizes: DecoderSizes, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        hidden, layers = sizes.hidden, sizes.layers
        make_cell = CELLS[sizes.cell]
        gates = make_cell.gates * hidden
        self.register_buffer("feature_mean", torch.zeros(sizes.features))
        self.register_buffer("feature_scale", torch.ones(sizes.features))
        self.value = nn.Linear(sizes.features, hidden)
        if sizes.recurrent_regions:
            self.around = nn.LSTM(hidden, hidden // 2, batch_first=True, bidirectional=True)
        if sizes.attention:
            self.key = nn.Linear(hidden, sizes.attention)
            self.query = nn.Linear(hidden, sizes.attention, bias=False)
            self.energy = nn.Linear(sizes.attention, 1, bias=False)
        self.gate = nn.Linear(hidden, hidden)
        self.first = nn.Linear(hidden, 2 * layers * hidden)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.from_word = nn.Linear(sizes.embedding, gates)
        self.from_context = nn.Linear((1 + (layers > 1)) * hidden, gates, bias=False)
        self.cells = nn.ModuleList(make_cell(hidden) for _ in range(layers))
        self.from_below = nn.ModuleList(nn.Linear(2 * hidden, gates) for _ in range(layers - 1))
        self.readout = nn.Linear(2 * hidden, sizes.embedding)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=sizes.embedding**-0.5)

    def standardise(self, features: Tensor) -> None:
        """Measure these features [..., D]: from now on each channel is read with mean 0 and deviation 1."""
        flat = features.flatten(0, -2).float()
        self.feature_mean = flat.mean(dim=0)
        self.feature_scale = 1 / (flat.std(dim=0) + 1e-3)

    def remember(self, features: Tensor) -> Memory:
        """Project encoder features [B, P, D] once, for all steps and beams."""
        features = (features - self.feature_mean) * self.feature_scale
        values = torch.relu(self.value(self.dropout(features)))
        if self.sizes.recurrent_regions:
            values = values + self.around(values)[0]
        return Memory(self.key(values) if self.sizes.attention else values[..., :0], values)

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first word, from the mean over regions; one beam."""
        mean = memory.values.mean(dim=1, keepdim=True)  # [B, 1, H]
        both = torch.tanh(self.first(mean)).view(len(mean), 1, 2, self.sizes.layers, self.sizes.hidden)
        return DecoderState(both[:, :, 0], both[:, :, 1], mean)

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
        state, top, weights = self._recur(self.from_word(word), state, memory)
        return self._logits(word, top, state.context), state, weights

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        """Teacher forcing: predict every token of every caption from those before it.

        Args:
            features: of the images, [B, P, D].
            tokens: of the captions from start to end, padded at the right, [N, T].
            images: which image each caption describes, [N]; None when there is one caption per image, in order.

        Returns:
            logits [M, V] of the tokens that `predicted` names, caption after caption.
        """
        memory = self.remember(features)
        state = self.start(memory)
        lengths = (tokens != PAD).sum(dim=1) - 1
        longest_first = lengths.argsort(descending=True, stable=True)
        rows = longest_first if images is None else images[longest_first]
        memory, state = pick_images(memory, rows), pick_images(state, rows)
        words = self.dropout(self.embedding(tokens[longest_first, :-1]))  # [N, T - 1, E]
        inputs = self.from_word(words)
        alive = (lengths.unsqueeze(1) > torch.arange(tokens.shape[1] - 1, device=tokens.device)).sum(dim=0).tolist()
        read, tops, contexts = [], [], []
        for t, count in enumerate(alive):  # captions that have ended leave the batch
            memory, state = pick_images(memory, slice(count)), pick_images(state, slice(count))
            state, top, _ = self._recur(inputs[:count, t : t + 1], state, memory)
            read.append(words[:count, t])
            tops.append(top.squeeze(1))
            contexts.append(state.context.squeeze(1))
        place = torch.cat([longest_first[:count] * len(alive) + t for t, count in enumerate(alive)])
        by_caption = place.argsort()
        return self._logits(*(torch.cat(parts)[by_caption] for parts in (read, tops, contexts)))

    def widened(self, vocabulary: int) -> "AttentionDecoder":
        """Return a copy with room for more words; what it says of the old ones is unchanged.

        New rows start as the mean embedding with a bias that makes them improbable until they are trained.
        """
        added = vocabulary - self.sizes.vocabulary
        if added < 0:
            raise BundleError(f"a vocabulary of {self.sizes.vocabulary} words cannot shrink to {vocabulary}")
        wide = AttentionDecoder(replace(self.sizes, vocabulary=vocabulary), dropout=self.dropout.p)
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        old = weights["embedding.weight"]
        weights["embedding.weight"] = torch.cat([old, old.mean(dim=0, keepdim=True).expand(added, -1)])
        weights["bias"] = torch.cat([weights["bias"], weights["bias"].min().expand(added)])
        wide.load_state_dict(weights)
        return wide.train(self.training)

    def _recur(self, word: Tensor, state: DecoderState, memory: Memory) -> tuple[DecoderState, Tensor, Tensor]:
        """Return the next state, what the topmost layer says [B, K, H], and attention weights.

        Args:
            word: projected to the first cell's gates, [B, K, G * H].
        """
        stacked = self.sizes.layers > 1
        seen = torch.cat([state.context, state.hidden[:, :, -1]], dim=-1) if stacked else state.context
        hidden, cell = self.cells[0](word + self.from_context(seen), state.hidden[:, :, 0], state.cell[:, :, 0])
        context, weights = self._attend(hidden, memory)
        says, hiddens, cells = hidden, [hidden], [cell]
        for layer, project in enumerate(self.from_below, start=1):
            inputs = project(torch.cat([context, self.dropout(says)], dim=-1))
            hidden, cell = self.cells[layer](inputs, state.hidden[:, :, layer], state.cell[:, :, layer])
            says = says + hidden if self.sizes.residual else hidden
            hiddens.append(hidden)
            cells.append(cell)
        return DecoderState(torch.stack(hiddens, dim=2), torch.stack(cells, dim=2), context), says, weights

    def _attend(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Additive attention, gated by the state (Xu et al. 2015, sections 3.1.2 and 4.2.1)."""
        if self.sizes.attention:
            mixed = (memory.keys.unsqueeze(1) + self.query(hidden).unsqueeze(2)).tanh_()  # [B, K, P, A]
            weights = self.energy(mixed).squeeze(-1).softmax(dim=-1)  # [B, K, P]
        else:
            regions = memory.values.shape[1]
            weights = memory.values.new_full((*hidden.shape[:2], regions), 1 / regions)
        context = torch.sigmoid(self.gate(hidden)) * (weights @ memory.values)  # [B, K, H]
        return context, weights

    def _logits(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        read = torch.tanh(word + self.readout(self.dropout(torch.cat([hidden, context], dim=-1))))
        logits: Tensor = nn.functional.linear(self.dropout(read), self.embedding.weight, self.bias)
        return logits


def predicted(tokens: Tensor) -> Tensor:
    """Return the tokens of captions [N, T] that a decoder predicts, all but start and padding, [M]."""
    following = tokens[:, 1:]
    return following[following != PAD]


def pick_images(parts: Parts, images: Tensor | slice) -> Parts:
    """Return memory or state of these images."""
    return type(parts)(*(part[images] for part in parts))
