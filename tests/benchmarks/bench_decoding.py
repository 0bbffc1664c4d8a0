"""Measures captions per second of our decoder at batch 1 and 32, and of a decoder as tutorials write it.

    python -m tests.benchmarks.bench_decoding

Both have random weights, a vocabulary of 10,000 words, sizes 512, beam 3 and exactly 20 tokens per caption. The
tutorials' decoder searches one image at a time. It attends over a 14x14 grid of 2,048 channels, projects this grid
again at each step, and uses one product per gate input. Our decoder reads a 7x7 grid. In the last row it reads a 14x14
grid of 2,048 channels, so both decoders do the same work there.
"""

import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.captioner import prefer_fast_products
from model.decoders import build_decoder
from model.decoders.base import CaptionDecoder, DecoderSizes
from model.decoders.search import DecodingOptions, beam_search
from model.tokenizer import END

VOCABULARY, BEAMS, TOKENS = 10_000, 3, 20


class TutorialDecoder(nn.Module):
    """An attention LSTM as tutorials on Show, Attend and Tell write it."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query, self.energy = nn.Linear(2048, 512), nn.Linear(512, 512), nn.Linear(512, 1)
        self.embedding, self.gate = nn.Embedding(VOCABULARY, 512), nn.Linear(512, 2048)
        self.cell, self.output = nn.LSTMCell(512 + 2048, 512), nn.Linear(512, VOCABULARY)

    @torch.inference_mode()
    def caption(self, features: Tensor) -> None:
        """Beam search for one image, features [P, D]."""
        regions = features.expand(BEAMS, *features.shape)
        hidden, cell = torch.zeros(2, BEAMS, 512)
        tokens, scores = torch.zeros(BEAMS, dtype=torch.long), torch.zeros(BEAMS, 1)
        for _ in range(TOKENS):
            energy = self.energy(torch.relu(self.key(regions) + self.query(hidden).unsqueeze(1)))
            context = (energy.softmax(1) * regions).sum(1) * torch.sigmoid(self.gate(hidden))
            hidden, cell = self.cell(torch.cat([self.embedding(tokens), context], 1), (hidden, cell))
            totals = scores + self.output(hidden).log_softmax(1)
            best, index = totals.flatten().topk(BEAMS)
            parent, tokens, scores = index // VOCABULARY, index % VOCABULARY, best.unsqueeze(1)
            hidden, cell = hidden[parent], cell[parent]


def our_decoder(features: int) -> CaptionDecoder:
    """Return our decoder at the same sizes, changed so that it never ends a caption early."""
    decoder = build_decoder(DecoderSizes(vocabulary=VOCABULARY, features=features)).eval()
    with torch.no_grad():
        decoder.bias[END] = -1e9
    return decoder


def captions_per_s(decode: Callable[[], object], images: int, seconds: float = 4.0) -> float:
    """Return captions per second of `decode`, which captions `images` images, after one warm-up."""
    decode()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        decode()
        rounds += 1
    return images * rounds / (time.perf_counter() - started)


def main() -> None:
    torch.manual_seed(0)
    # Tutorials could use this setting too, so it applies to both decoders.
    prefer_fast_products()
    options = DecodingOptions(beam_size=BEAMS, max_tokens=TOKENS)
    tutorial = TutorialDecoder().eval()
    one_large = torch.randn(196, 2048)
    base = captions_per_s(lambda: tutorial.caption(one_large), 1)
    rows = [("tutorial, 14x14x2048", 1, base)]
    for name, regions, size, batches in (("ours, 7x7x512", 49, 512, (1, 32)), ("ours, 14x14x2048", 196, 2048, (1, 32))):
        decoder = our_decoder(size)
        for batch in batches:
            features = torch.randn(batch, regions, size)
            rate = captions_per_s(lambda d=decoder, f=features: beam_search(d, f, options), batch)  # type: ignore[misc]
            rows.append((name, batch, rate))

    print(f"{'decoder':24} {'batch':>5} {'captions/s':>11} {'x tutorial':>11}")
    for name, batch, rate in rows:
        print(f"{name:24} {batch:5} {rate:11.1f} {rate / base:11.1f}")
    rates = {(name, batch): rate for name, batch, rate in rows}
    bars = {
        "decoder_batch_1_x_tutorial": (rates["ours, 7x7x512", 1] / base, 10.0),
        "decoder_batch_32_x_tutorial": (rates["ours, 7x7x512", 32] / base, 44.0),
    }
    report = {name: {"value": round(v, 1), "bar": bar, "holds": v >= bar} for name, (v, bar) in bars.items()}
    print(json.dumps({"bars": report}))


if __name__ == "__main__":
    main()
