"""Sizes of a decoder and the names of its cells. They are stored with its weights, and need no torch."""

from dataclasses import dataclass

from model.errors import BundleError

RECURRENT = ("lstm", "peephole", "gru", "rnn")
TRANSFORMER = "transformer"


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """Sizes of the network; they are stored with its weights."""

    vocabulary: int
    features: int
    hidden: int = 512
    embedding: int = 512
    attention: int = 512
    """0 replaces attention by the mean over all regions (Vinyals et al. 2015, https://arxiv.org/abs/1411.4555)."""
    layers: int = 1
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn` or `transformer`."""
    recurrent_regions: bool = False
    """An LSTM reads the regions row by row, in both directions, before attention (Shi et al. 2015,
    https://arxiv.org/abs/1507.05717). Each region then also describes those around it."""
    residual: bool = False
    """Each layer above the first adds the output of the layer below to its own."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "features", "hidden", "embedding", "attention", "layers"):
            value, least = getattr(self, name), 0 if name == "attention" else 1
            if not isinstance(value, int) or value < least:
                raise BundleError(f"decoder size {name} must be {least} or more, got {value!r}")
        if self.recurrent_regions and self.hidden % 2:
            raise BundleError(f"decoder size hidden must be even to read regions in both directions, got {self.hidden}")
        if self.cell not in (*RECURRENT, TRANSFORMER):
            raise BundleError(f"decoder cell must be one of {', '.join(RECURRENT)}, {TRANSFORMER}, got {self.cell!r}")
