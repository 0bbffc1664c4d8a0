"""An attention LSTM (Xu et al. 2015) as tutorials write it in PyTorch: one image at a time, projections of its regions
made anew for every word, one layer after the other. It has the weights of our decoder and writes the same captions.

Shapes:  K beams   P regions   D feature size   V vocabulary   N captions   T tokens
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.decoders.base import log_probabilities
from model.decoders.recurrent import AttentionDecoder
from model.tokenizer import START


class PlainReference:
    """Beam search for one image, for a fixed number of words."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        self.decoder = decoder

    @torch.inference_mode()
    def caption(self, features: Tensor, beams: int, words: int) -> list[int]:
        """Return the tokens of the best caption of an image with features [P, D]."""
        decoder = self.decoder
        hidden, memory = self._first(features, beams)
        context = self._regions(features, beams).mean(dim=1)
        tokens = torch.full((beams,), START)
        scores = torch.tensor([0.0] + [float("-inf")] * (beams - 1)).unsqueeze(1)
        captions = torch.zeros(beams, 0, dtype=torch.long)
        for _ in range(words):
            word = decoder.embedding(tokens)
            regions = self._regions(features, beams)
            hidden, memory, top, context = self._read(word, hidden, memory, context, regions)
            output = torch.tanh(word + decoder.readout(torch.cat([top, context], dim=1)))
            logits = output @ decoder.embedding.weight.T + decoder.bias
            totals = scores + log_probabilities(logits)
            best, index = totals.flatten().topk(beams)
            parents, tokens, scores = index // logits.shape[1], index % logits.shape[1], best.unsqueeze(1)
            captions = torch.cat([captions[parents], tokens.unsqueeze(1)], dim=1)
            hidden, memory = [state[parents] for state in hidden], [state[parents] for state in memory]
            context = context[parents]
        return [int(token) for token in captions[0]]

    def loss(self, features: Tensor, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Return the mean loss of the words of captions, by teacher forcing.

        Args:
            features: of the image of each caption, [N, P, D].
            tokens: from start to end, padded at the right, [N, T].
            lengths: numbers of words to predict, the longest first; captions that have ended leave the batch.
        """
        decoder = self.decoder
        values = self._values(features)
        both = torch.tanh(decoder.first(values.mean(dim=1)))
        parts = list(torch.split(both, decoder.sizes.hidden, dim=1))
        hidden, memory = parts[: decoder.sizes.layers], parts[decoder.sizes.layers :]
        context, losses = values.mean(dim=1), []
        for place in range(max(lengths)):
            count = sum(length > place for length in lengths)
            hidden, memory = [state[:count] for state in hidden], [state[:count] for state in memory]
            word = decoder.embedding(tokens[:count, place])
            hidden, memory, top, context = self._read(word, hidden, memory, context[:count], values[:count])
            output = torch.tanh(word + decoder.readout(torch.cat([top, context], dim=1)))
            logits = output @ decoder.embedding.weight.T + decoder.bias
            losses.append(functional.cross_entropy(logits, tokens[:count, place + 1], reduction="sum"))
        return torch.stack(losses).sum() / sum(lengths)

    def _regions(self, features: Tensor, beams: int) -> Tensor:
        return self._values(features.expand(beams, *features.shape))

    def _values(self, features: Tensor) -> Tensor:
        decoder = self.decoder
        scaled = (features - decoder.feature_mean) * decoder.feature_scale
        return torch.relu(decoder.value(scaled))

    def _first(self, features: Tensor, beams: int) -> tuple[list[Tensor], list[Tensor]]:
        sizes = self.decoder.sizes
        both = torch.tanh(self.decoder.first(self._regions(features, beams).mean(dim=1)))
        parts = list(torch.split(both, sizes.hidden, dim=1))
        return parts[: sizes.layers], parts[sizes.layers :]

    def _read(
        self, word: Tensor, hidden: list[Tensor], memory: list[Tensor], context: Tensor, values: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        decoder = self.decoder
        before = torch.cat([context, hidden[-1]], dim=1) if decoder.sizes.layers > 1 else context
        inputs = decoder.from_word(word) + decoder.from_context(before)
        new_hidden, new_memory = decoder.cells[0](inputs, hidden[0], memory[0])
        hiddens, memories = [new_hidden], [new_memory]
        energy = decoder.energy(torch.tanh(decoder.key(values) + decoder.query(new_hidden).unsqueeze(1)))
        context = (energy.softmax(dim=1) * values).sum(dim=1) * torch.sigmoid(decoder.gate(new_hidden))
        for layer, project in enumerate(decoder.from_below, start=1):
            below = project(torch.cat([context, hiddens[-1]], dim=1))
            new_hidden, new_memory = decoder.cells[layer](below, hidden[layer], memory[layer])
            hiddens.append(new_hidden)
            memories.append(new_memory)
        return hiddens, memories, hiddens[-1], context
