"""The last stages of an encoder, taught together with the decoder that reads what they see.

The stages below them stay as they are, so what these see of an image is computed once and kept like features.

Shapes:  B batch   P regions that the stages below see   C their channels   D feature size
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from model.errors import TrainingError
from model.vision.encoder import Encoder, build_encoder, freeze

ALL = -1
"""Of the stages: the whole network, from the pixels on."""


class EncoderTail(nn.Module):
    """Turns what the stages below saw into the encoder's features."""

    def __init__(self, stages: nn.Sequential, *, fixed_statistics: bool) -> None:
        """Take the stages.

        Args:
            stages: the last ones of a network.
            fixed_statistics: batch normalisation keeps the statistics it has; else it measures anew.
        """
        super().__init__()
        self.stages = stages
        self._fixed_statistics = fixed_statistics

    def forward(self, seen: Tensor) -> Tensor:
        """Return features [B, P', D] of what the stages below see of square images, [B, P, C]."""
        side = math.isqrt(seen.shape[1])
        grid: Tensor = self.stages(seen.transpose(1, 2).reshape(*seen.shape[:1], -1, side, side))
        return grid.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> "EncoderTail":
        super().train(mode)
        if self._fixed_statistics:
            self.stages.eval()
        return self


def part(encoder: Encoder, stages: int | None = None, *, fixed_statistics: bool = True) -> tuple[Encoder, EncoderTail]:
    """Divide an encoder into what stays and what is taught; it is left as it was.

    Args:
        encoder: any.
        stages: how many stages are taught, or ALL; None takes those that see the final grid of regions.
        fixed_statistics: as in EncoderTail.

    Raises:
        TrainingError: it has fewer stages.
    """
    copy = build_encoder(encoder.spec)
    copy.network.load_state_dict(encoder.network.state_dict())
    network = copy.network if isinstance(copy.network, nn.Sequential) else nn.Sequential(copy.network)
    named = list(network.named_children())
    taught = len(named) if stages == ALL else _on_final_grid(network, copy) if stages is None else stages
    if not 0 <= taught <= len(named):
        raise TrainingError(f"encoder {encoder.spec.name!r} has {len(named)} stages, cannot teach the last {taught}")
    kept = len(named) - taught
    below = Encoder(encoder.spec, nn.Sequential(OrderedDict(named[:kept])))
    tail = EncoderTail(nn.Sequential(OrderedDict(named[kept:])), fixed_statistics=fixed_statistics)
    tail.requires_grad_(True)
    return freeze(below), tail


def join(below: Encoder, tail: EncoderTail) -> Encoder:
    """Return the encoder that sees what both see, one after the other; frozen."""
    whole = build_encoder(below.spec)
    network = whole.network if isinstance(whole.network, nn.Sequential) else nn.Sequential(whole.network)
    network.load_state_dict({**below.network.state_dict(), **tail.stages.state_dict()})
    return freeze(whole)


@torch.inference_mode()
def _on_final_grid(network: nn.Sequential, encoder: Encoder) -> int:
    """Return how many of the last stages see as many regions as the network's end."""
    seen, regions = torch.zeros(1, 3, encoder.spec.preprocessing.size, encoder.spec.preprocessing.size), []
    for stage in network.children():
        seen = stage(seen)
        regions.append(seen.shape[2] * seen.shape[3])
    return sum(count == encoder.regions for count in regions)
