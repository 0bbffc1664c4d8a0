"""Makes the decoder that a bundle's sizes name."""

from model.decoders.base import CaptionDecoder
from model.decoders.recurrent import AttentionDecoder
from model.decoders.sizes import TRANSFORMER, DecoderSizes
from model.decoders.transformer import TransformerDecoder


def build_decoder(sizes: DecoderSizes, dropout: float = 0.0) -> CaptionDecoder:
    """Return a decoder with random weights, of the kind that `sizes.cell` names."""
    kind = TransformerDecoder if sizes.cell == TRANSFORMER else AttentionDecoder
    return kind(sizes, dropout)
