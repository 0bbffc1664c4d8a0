"""Image encoders: convolutional networks whose last feature map is a grid of image regions.

Shapes:  B batch   S image side   P regions (grid height x width)   D feature size
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import BundleError
from model.vision.encoder_spec import SCENE_CNN, EncoderSpec, fingerprint
from model.vision.trunks import feature_trunk, load_weights


class Encoder(nn.Module):
    """A frozen network that turns images into features. Corrections never change it."""

    def __init__(self, spec: EncoderSpec, network: nn.Module) -> None:
        """Measure the feature map of a network.

        Raises:
            BundleError: the network cannot read images of this size.
        """
        super().__init__()
        self.spec = spec
        self.network = network
        self._fingerprint: str | None = None
        size = spec.preprocessing.size
        try:
            with torch.inference_mode():
                grid = network.eval()(torch.zeros(1, 3, size, size))
        except (RuntimeError, ValueError) as cause:
            raise BundleError(f"encoder {spec.name!r} cannot read images of {size} pixels: {cause}") from cause
        self.feature_size: int = grid.shape[1]
        self.regions: int = grid.shape[2] * grid.shape[3]

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with the network, its weights or the preprocessing; a key of stored features."""
        if self._fingerprint is None:
            weights = {name: values.detach().cpu().numpy() for name, values in self.network.state_dict().items()}
            self._fingerprint = fingerprint(self.spec, weights)
        return self._fingerprint

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, P, D] of preprocessed images [B, 3, S, S]."""
        grid: Tensor = self.network(images)  # [B, D, height, width]
        return grid.flatten(2).transpose(1, 2)  # [B, P, D]

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the features [B, P, D] of preprocessed images, [3, S, S] each, without gradients."""
        pixels = torch.from_numpy(np.stack(images)).contiguous(memory_format=torch.channels_last)
        device = next((values.device for values in self.network.parameters()), pixels.device)
        return np.asarray(self(pixels.to(device)).float().cpu().numpy())


class SceneCNN(nn.Sequential):
    """A small network for drawn scenes: four stages, each of which halves the side of the grid.

    Two extra channels before each stage and in the output hold the coordinates (Liu et al. 2018,
    https://arxiv.org/abs/1807.03247), so that features contain positions.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 158)) -> None:
        channels = 3
        layers: list[nn.Module] = []
        for stage, width in enumerate(widths):
            layers += [Coordinates(), *convolution(channels + 2, width, stride=2)]
            if stage > 0:
                layers += convolution(width, width, stride=1)
            channels = width
        super().__init__(*layers, Coordinates())


class Coordinates(nn.Module):
    """Appends the x and y coordinate of each pixel, from -1 to 1, as two channels."""

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        x = torch.linspace(-1, 1, width, dtype=images.dtype, device=images.device).expand(batch, 1, height, -1)
        y = torch.linspace(-1, 1, height, dtype=images.dtype, device=images.device).view(-1, 1)
        return torch.cat([images, x, y.expand(batch, 1, -1, width)], dim=1)


def convolution(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return [
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]


def build_encoder(spec: EncoderSpec, weights: Path | str | None = None) -> Encoder:
    """Build a frozen encoder.

    Args:
        weights: a state dict file in the layout of torchvision or timm (with classifier), a safetensors file of the
            encoder's own weights, the name of weights to download such as "DEFAULT", or None for random weights.

    Raises:
        BundleError: the name is unknown, or the weights do not fit.
    """
    is_own = weights is not None and Path(weights).suffix == ".safetensors"
    network: nn.Module = SceneCNN() if spec.name == SCENE_CNN else feature_trunk(spec.name, None if is_own else weights)
    if weights is not None and (is_own or spec.name == SCENE_CNN):
        load_weights(network, Path(weights))
    return freeze(Encoder(spec, network))


def freeze(encoder: Encoder) -> Encoder:
    """Set the encoder to evaluation mode without gradients, and its memory to channels-last, which is faster."""
    encoder.requires_grad_(False)
    encoder.network.to(memory_format=torch.channels_last)
    encoder.eval()
    return encoder


def as_stored(encoder: Encoder) -> Encoder:
    """Round the weights to the bundle's half precision, so that training and serving compute the same features."""
    for values in encoder.network.state_dict().values():
        if values.is_floating_point():
            values.copy_(values.half())
    return encoder
