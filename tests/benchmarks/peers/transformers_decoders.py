"""Text decoders of transformers with random weights, in a process with transformers on its path.

    python tests/benchmarks/peers/transformers_decoders.py BEAMS WORDS BATCH...

Prints one JSON object: captions per second by name and batch.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import BlipTextConfig, GPT2Config, GPT2LMHeadModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

REGIONS = 197
MEASURED_S = 6.0


def main() -> None:
    beams, words, *batches = map(int, sys.argv[1:])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    # Fixed length: no end may come early.
    options = {
        "num_beams": beams, "min_new_tokens": words, "max_new_tokens": words, "do_sample": False, "eos_token_id": 1,
        "pad_token_id": 0,
    }  # fmt: skip
    blip = BlipTextLMHeadModel(BlipTextConfig(is_decoder=True, encoder_hidden_size=768)).eval()
    gpt = GPT2LMHeadModel(GPT2Config(add_cross_attention=True)).eval()
    rates = {}
    for batch in batches:
        features = torch.randn(batch, REGIONS, 768)
        start = torch.full((batch, 1), 2)

        def by(model: Any) -> Callable[[], object]:
            def write() -> object:
                with torch.inference_mode():
                    return model.generate(start, encoder_hidden_states=features, **options)  # noqa: B023

            return write

        for name, model in (("BLIP-base text decoder", blip), ("ViT-GPT2 text decoder", gpt)):
            rates[f"{name}/{batch}"] = captions_per_s(by(model), batch)
    print(json.dumps(rates))


def captions_per_s(write: Callable[[], object], images: int) -> float:
    if images == 1:
        write()  # a large batch takes a minute, so that its first call costs nothing
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_S:
        write()
        rounds += 1
    return images * rounds / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
