"""The recurrent decoder with attention (Xu et al. 2015, https://arxiv.org/abs/1502.03044), in one or more layers.

Shapes:  B batch   K beams   N captions   T tokens   M predicted tokens of all captions   P regions   E embedding
         H hidden   A attention   L layers   G gates of the cell
"""

import torch
from torch import Tensor, nn

from model.decoders.base import CaptionDecoder, DecoderState, Memory, pick_images
from model.decoders.cells import CELLS
from model.decoders.sizes import DecoderSizes
from model.tokenizer import PAD

ROWS, TOKENS = 16, 128
"""Numbers of rows and of tokens are rounded up to these. oneDNN first makes a program for each new size of a product;
with exact sizes that took half of the time of a training in bfloat16 (tests/benchmarks/RESULTS.md)."""


class AttentionDecoder(CaptionDecoder):
    """Recurrent layers over words, with soft attention over image regions at every step.

    1. The first layer reads the last word, the last context, and, if there are more layers, the top layer's last state
       (input feeding, Luong et al. 2015, section 3.3, https://arxiv.org/abs/1508.04025).
    2. Attention compares that layer's state with the regions and returns a new context.
    3. The layers above read the context and the layer below (Anderson et al. 2018, section 3.2,
       https://arxiv.org/abs/1707.07998).
    4. The top layer's state, the context and the last word give the logits of the next word.
    """

    def __init__(self, sizes: DecoderSizes, dropout: float = 0.0) -> None:
        super().__init__(sizes, dropout)
        hidden, layers = sizes.hidden, sizes.layers
        make_cell = CELLS[sizes.cell]
        gates = make_cell.gates * hidden
        if sizes.attention:
            self.key = nn.Linear(hidden, sizes.attention)
            self.query = nn.Linear(hidden, sizes.attention, bias=False)
            self.energy = nn.Linear(sizes.attention, 1, bias=False)
        self.gate = nn.Linear(hidden, hidden)
        self.first = nn.Linear(hidden, 2 * layers * hidden)
        self.from_word = nn.Linear(sizes.embedding, gates)
        self.from_context = nn.Linear((1 + (layers > 1)) * hidden, gates, bias=False)
        self.cells = nn.ModuleList(make_cell(hidden) for _ in range(layers))
        self.from_below = nn.ModuleList(nn.Linear(2 * hidden, gates) for _ in range(layers - 1))
        self.readout = nn.Linear(2 * hidden, sizes.embedding)

    def remember(self, features: Tensor) -> Memory:
        values = self._values(features)
        return Memory(self.key(values) if self.sizes.attention else values[..., :0], values)

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first word, computed from the mean over regions."""
        mean = memory.values.mean(dim=1, keepdim=True)  # [B, 1, H]
        both = torch.tanh(self.first(mean)).view(len(mean), 1, 2, self.sizes.layers, self.sizes.hidden)
        return DecoderState(both[:, :, 0], both[:, :, 1], mean)

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        word = self.embedding(tokens)
        state, top, weights = self._recur(self.from_word(word), state, memory)
        return self._logits(word, top, state.context), state, weights

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        memory = self.remember(features)
        state = self.start(memory)
        lengths = (tokens != PAD).sum(dim=1) - 1
        longest_first = lengths.argsort(descending=True, stable=True)
        rows = longest_first if images is None else images[longest_first]
        memory, state = pick_images(memory, rows), pick_images(state, rows)
        embedded = self.dropout(self.embedding(tokens[longest_first, :-1]))  # [N, T - 1, E]
        # unbind, because the gradient of each slice would be as large as that of the whole tensor.
        words, inputs = embedded.unbind(1), self.from_word(embedded).unbind(1)
        alive = (lengths.unsqueeze(1) > torch.arange(tokens.shape[1] - 1, device=tokens.device)).sum(dim=0).tolist()
        read, tops, contexts = [], [], []
        for t, count in enumerate(alive):  # Captions that have ended leave the batch, ROWS at once.
            computed = _in_whole(count, ROWS)
            memory, state = pick_images(memory, slice(computed)), pick_images(state, slice(computed))
            state, top, _ = self._recur(inputs[t][:computed].unsqueeze(1), state, memory)
            read.append(words[t][:count])
            tops.append(top[:count].squeeze(1))
            contexts.append(state.context[:count].squeeze(1))
        place = torch.cat([longest_first[:count] * len(alive) + t for t, count in enumerate(alive)])
        by_caption = nn.functional.pad(place.argsort(), (0, _in_whole(len(place), TOKENS) - len(place)))
        return self._logits(*(torch.cat(parts)[by_caption] for parts in (read, tops, contexts)))[: len(place)]

    def _recur(self, word: Tensor, state: DecoderState, memory: Memory) -> tuple[DecoderState, Tensor, Tensor]:
        """Return the next state, the top layer's output [B, K, H], and attention weights.

        Args:
            word: projected to the first cell's gates, [B, K, G * H].
            state, memory: as in `step`.
        """
        stacked = self.sizes.layers > 1
        before = torch.cat([state.context, state.hidden[:, :, -1]], dim=-1) if stacked else state.context
        hidden, cell = self.cells[0](word + self.from_context(before), state.hidden[:, :, 0], state.cell[:, :, 0])
        context, weights = self._attend(hidden, memory)
        top, hiddens, cells = hidden, [hidden], [cell]
        for layer, project in enumerate(self.from_below, start=1):
            inputs = project(torch.cat([context, self.dropout(top)], dim=-1))
            hidden, cell = self.cells[layer](inputs, state.hidden[:, :, layer], state.cell[:, :, layer])
            top = top + hidden if self.sizes.residual else hidden
            hiddens.append(hidden)
            cells.append(cell)
        return DecoderState(torch.stack(hiddens, dim=2), torch.stack(cells, dim=2), context), top, weights

    def _attend(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the context and the weights of additive attention, gated by the state (Xu et al. 2015, sections 3.1.2
        and 4.2.1)."""
        if self.sizes.attention:
            mixed = (memory.keys.unsqueeze(1) + self.query(hidden).unsqueeze(2)).tanh_()  # [B, K, P, A]
            weights = self.energy(mixed).squeeze(-1).softmax(dim=-1)  # [B, K, P]
        else:
            regions = memory.values.shape[1]
            weights = memory.values.new_full((*hidden.shape[:2], regions), 1 / regions)
        context = torch.sigmoid(self.gate(hidden)) * (weights @ memory.values)  # [B, K, H]
        return context, weights

    def _logits(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        return self._score(word + self.readout(self.dropout(torch.cat([hidden, context], dim=-1))))


def _in_whole(count: int, size: int) -> int:
    """Return the count, rounded up to a multiple of the size."""
    return -(-count // size) * size
