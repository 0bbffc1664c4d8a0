"""Encoders with ImageNet's weights that the encoder of `photos` learns from.

Both were trained in TensorFlow, which pads a convolution of stride 2 at the right and at the bottom only; torch pads on
all sides. With kernels and images turned by 180 degrees, torch's padding is that of TensorFlow.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import BundleError
from model.training.bundle_options import imagenet_encoder
from model.vision.encoder import Encoder, freeze

_LITE2 = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 3), (6, 5, 2, 48, 3), (6, 3, 2, 88, 4), (6, 5, 1, 120, 4), (6, 5, 2, 208, 5))
_LITE2_ROWS = (*_LITE2, (6, 3, 1, 352, 1))
"""Of each row: expansion, kernel, stride, channels and layers (EfficientNet-Lite, Google 2020)."""
_LITE2_STEM = 32


class Turned(nn.Module):
    """A part of a network of TensorFlow: images and feature maps are turned by 180 degrees on the way."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map [B, C, h, w] of images or feature maps [B, C', H, W]."""
        grid: Tensor = self.part(images.flip(-1, -2))
        return grid.flip(-1, -2)


def load_teacher(path: Path) -> Encoder:
    """Return a frozen encoder with the padding that its weights were trained with.

    Args:
        path: state dict of torchvision's mobilenet_v2, or of EfficientNet-Lite2 in torchvision's layout.

    Raises:
        BundleError: the file cannot be read or has other weights.
    """
    from torchvision import models  # imported here: it takes seconds

    try:
        weights: Mapping[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
        is_mobilenet = "features.18.0.weight" in weights
        whole = models.mobilenet_v2(weights=None) if is_mobilenet else efficientnet_lite2()
        whole.load_state_dict({name: turned(values.float()) for name, values in weights.items()})
    except (OSError, RuntimeError, AttributeError) as cause:
        raise BundleError(f"{path} holds weights neither of mobilenet_v2 nor of EfficientNet-Lite2: {cause}") from cause
    stages: nn.Module = whole.features  # type: ignore[assignment]
    network = nn.Sequential(*map(Turned, stages.children())) if is_mobilenet else Turned(stages)
    return freeze(Encoder(imagenet_encoder("mobilenet_v2" if is_mobilenet else "efficientnet_lite2"), network))


def turned(values: Tensor) -> Tensor:
    """Return the kernels of a convolution turned by 180 degrees; other values stay as they are."""
    return values.flip(-1, -2) if values.dim() == 4 else values


def efficientnet_lite2() -> nn.Module:
    """Return EfficientNet-Lite2 with random weights, as torchvision would build it."""
    from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig

    block = partial(MBConv, se_layer=_NoSqueeze)
    channels, rows = _LITE2_STEM, []
    for expand, kernel, stride, out, layers in _LITE2_ROWS:
        rows.append(MBConvConfig(expand, kernel, stride, channels, out, layers, 1.0, 1.0, block))
        channels = out
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    network: nn.Module = EfficientNet(rows, dropout=0.0, norm_layer=norm, last_channel=1280)
    _replace_activations(network)
    return network


class _NoSqueeze(nn.Identity):
    """Stands where EfficientNet has squeeze-and-excitation, which the Lite networks have not."""


def _replace_activations(network: nn.Module) -> None:
    for name, part in network.named_children():
        if isinstance(part, nn.SiLU):
            setattr(network, name, nn.ReLU6(inplace=True))
        else:
            _replace_activations(part)
