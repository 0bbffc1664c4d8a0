"""The last stages of an encoder, which are trained together with the decoder.

The stages below them are frozen, so their output is computed once for each image and kept like features.

Shapes:  B batch   P regions after the frozen stages   C their channels   P' regions of the encoder   D feature size
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from model.errors import TrainingError
from model.vision.encoder import Encoder, build_encoder, freeze

ALL = -1
"""Number of stages that means the whole network."""


class TrainableStages(nn.Module):
    """Turns the output of the frozen stages into the encoder's features."""

    def __init__(self, stages: nn.Sequential, *, fixed_statistics: bool) -> None:
        """Take the stages.

        Args:
            stages: the last ones of a network.
            fixed_statistics: True keeps the statistics of batch normalisation; False measures them again.
        """
        super().__init__()
        self.stages = stages
        self._fixed_statistics = fixed_statistics

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features [B, P', D] of the frozen stages' output for square images, [B, P, C]."""
        side = math.isqrt(inputs.shape[1])
        grid: Tensor = self.stages(inputs.transpose(1, 2).reshape(*inputs.shape[:1], -1, side, side))
        return grid.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> "TrainableStages":
        super().train(mode)
        if self._fixed_statistics:
            self.stages.eval()
        return self


def split_encoder(
    encoder: Encoder, stages: int | None = None, *, fixed_statistics: bool = True
) -> tuple[Encoder, TrainableStages]:
    """Return copies of an encoder's frozen stages and of its trainable ones.

    Args:
        encoder: stays as it is.
        stages: number of trainable stages, or ALL. None takes the stages that see the final grid of regions.
        fixed_statistics: as in TrainableStages.

    Raises:
        TrainingError: the encoder has fewer stages.
    """
    copy = build_encoder(encoder.spec)
    copy.network.load_state_dict(encoder.network.state_dict())
    named = list(_sequence(copy.network).named_children())
    trainable = len(named) if stages == ALL else _count_on_final_grid(copy) if stages is None else stages
    if not 0 <= trainable <= len(named):
        raise TrainingError(
            f"encoder {encoder.spec.name!r} has {len(named)} stages: choose 0 to {len(named)} of them to train, "
            f"got {trainable}"
        )
    frozen = len(named) - trainable
    below = Encoder(encoder.spec, nn.Sequential(OrderedDict(named[:frozen])))
    above = TrainableStages(nn.Sequential(OrderedDict(named[frozen:])), fixed_statistics=fixed_statistics)
    above.requires_grad_(True)
    return freeze(below), above


def join_encoder(below: Encoder, above: TrainableStages) -> Encoder:
    """Return the frozen encoder that consists of both."""
    whole = build_encoder(below.spec)
    _sequence(whole.network).load_state_dict({**below.network.state_dict(), **above.stages.state_dict()})
    return freeze(whole)


def _sequence(network: nn.Module) -> nn.Sequential:
    return network if isinstance(network, nn.Sequential) else nn.Sequential(network)


@torch.inference_mode()
def _count_on_final_grid(encoder: Encoder) -> int:
    """Return the number of last stages whose output has as many regions as the network's."""
    size = encoder.spec.preprocessing.size
    outputs, regions = torch.zeros(1, 3, size, size), []
    for stage in _sequence(encoder.network).children():
        outputs = stage(outputs)
        regions.append(outputs.shape[2] * outputs.shape[3])
    return sum(count == encoder.regions for count in regions)
