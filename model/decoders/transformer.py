"""A small transformer decoder (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762), for comparison with the others.

Each part normalises its inputs, not its outputs.

Shapes:  B batch   K beams   N captions   T tokens   P regions   H hidden   L layers
"""

import math

import torch
from torch import Tensor, nn

from model.decoders.base import CaptionDecoder, DecoderState, Memory
from model.decoders.sizes import DecoderSizes
from model.errors import BundleError
from model.tokenizer import PAD

HEADS = 8


class TransformerDecoder(CaptionDecoder):
    """Layers that attend to the words so far, then to the image."""

    def __init__(self, sizes: DecoderSizes, dropout: float = 0.0) -> None:
        super().__init__(sizes, dropout)
        if sizes.hidden % HEADS:
            raise BundleError(f"decoder size hidden must be a multiple of {HEADS} heads, got {sizes.hidden}")
        self.from_word = nn.Linear(sizes.embedding, sizes.hidden)
        self.layers = nn.ModuleList(TransformerLayer(sizes.hidden, dropout) for _ in range(sizes.layers))
        self.normal = nn.LayerNorm(sizes.hidden)
        self.readout = nn.Linear(sizes.hidden, sizes.embedding)

    def remember(self, features: Tensor) -> Memory:
        values = self._values(features)
        return Memory(values[..., :0], values)

    def start(self, memory: Memory) -> DecoderState:
        images, _, hidden = memory.values.shape
        nothing = memory.values.new_zeros(images, 1, self.sizes.layers, 0, hidden)
        return DecoderState(nothing, memory.values.new_zeros(images, 1, 0), memory.values.new_zeros(images, 1, hidden))

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        images, beams = tokens.shape
        past = state.hidden.flatten(0, 1)  # [B * K, L, T, H]
        regions = memory.values.repeat_interleave(beams, dim=0)
        word = self._words(tokens.reshape(-1, 1), past.shape[2])
        inputs = []
        for number, layer in enumerate(self.layers):
            words = torch.cat([past[:, number], word], dim=1)
            inputs.append(words)
            word, context, weights = layer(word, words, regions, None)
        logits = self._score(self.readout(self.dropout(self.normal(word))))
        hidden = torch.stack(inputs, dim=1)
        state = DecoderState(hidden.view(images, beams, *hidden.shape[1:]), state.cell, context.view(images, beams, -1))
        return logits.view(images, beams, -1), state, weights.view(images, beams, -1)

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        values = self.remember(features).values
        regions = values if images is None else values[images]
        word = self._words(tokens[:, :-1], 0)
        ahead = torch.ones(word.shape[1], word.shape[1], dtype=torch.bool, device=tokens.device).triu(1)
        for layer in self.layers:
            word, _, _ = layer(word, word, regions, ahead)
        return self._score(self.readout(self.dropout(self.normal(word[tokens[:, 1:] != PAD]))))

    def _words(self, tokens: Tensor, first: int) -> Tensor:
        """Return the embeddings of words [N, T, H], plus sines of their positions from `first` on."""
        word = self.from_word(self.embedding(tokens))
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device).unsqueeze(1)
        rates = torch.exp(torch.arange(0, word.shape[-1], 2, device=tokens.device) * (-math.log(1e4) / word.shape[-1]))
        sines = torch.cat([torch.sin(places * rates), torch.cos(places * rates)], dim=-1)
        placed: Tensor = self.dropout(word + sines)
        return placed


class TransformerLayer(nn.Module):
    """Self-attention, attention over the image, and a feed-forward network; each adds its output to its input."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.over_words = nn.MultiheadAttention(hidden, HEADS, dropout, batch_first=True)
        self.over_regions = nn.MultiheadAttention(hidden, HEADS, dropout, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.normals = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, word: Tensor, words: Tensor, regions: Tensor, ahead: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the context from the image, and the attention weights over its regions.

        Args:
            word: the words to read, [N, T, H].
            words: all words so far, including these, [N, T', H].
            regions: of the image of each caption, [N, P, H].
            ahead: True where a word must not see another word, [T, T']; None hides nothing.
        """
        normal = self.normals[0](words)
        query = normal[:, -word.shape[1] :]
        word = word + self.dropout(self.over_words(query, normal, normal, attn_mask=ahead, need_weights=False)[0])
        context, weights = self.over_regions(self.normals[1](word), regions, regions)
        word = word + self.dropout(context)
        return word + self.dropout(self.feed(self.normals[2](word))), context, weights
