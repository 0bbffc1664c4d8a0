"""A captioner that torch computes: the one that trains, and that serves where there is no ONNX Runtime."""

import torch

from model.captioner import Captioner
from model.decoders.base import CaptionDecoder
from model.tokenizer import Tokenizer
from model.vision.encoder import Encoder


def prefer_fast_products() -> None:
    """Let torch multiply matrices with oneDNN instead of MKL, in all threads of this process.

    On a CPU this makes beam search twice as fast (tests/benchmarks/RESULTS.md). On a CPU with bfloat16 instructions two
    captions of nearly the same score may swap ranks.
    """
    torch.set_float32_matmul_precision("medium")


class TorchCaptioner(Captioner):
    """A captioner whose networks are torch's. Safe to share between threads."""

    encoder: Encoder
    decoder: CaptionDecoder

    def __init__(
        self,
        encoder: Encoder,
        decoder: CaptionDecoder,
        tokenizer: Tokenizer,
        version: str,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(encoder, decoder.eval(), tokenizer, version, temperature)
