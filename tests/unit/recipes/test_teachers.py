"""The teachers of the photos' encoder compute what TensorFlow, which trained them, computes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from model.errors import BundleError
from recipes.photos.teachers import efficientnet_lite2, load_teacher


class PaddedAsInTensorFlow(nn.Module):
    """A convolution of stride 2 that is padded at the right and at the bottom only."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        kernel = convolution.kernel_size[0]
        self.pad = nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2)
        self.convolution = convolution
        convolution.padding = (0, 0)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(self.pad(images))  # type: ignore[no-any-return]


def pad_as_in_tensorflow(network: nn.Module) -> None:
    for name, part in network.named_children():
        if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
            setattr(network, name, PaddedAsInTensorFlow(part))
        else:
            pad_as_in_tensorflow(part)


@pytest.mark.parametrize("build", [models.mobilenet_v2, efficientnet_lite2])
def test_strided_convolutions_are_padded_as_in_tensorflow(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    features: nn.Module = network.eval().features  # type: ignore[assignment]
    pad_as_in_tensorflow(features)
    images = torch.randn(1, 3, 224, 224)

    teacher = load_teacher(tmp_path / "weights.pth")

    with torch.inference_mode():
        expected, grid = features(images), teacher.network(images)
    assert grid.shape == (1, 1280, 7, 7)
    torch.testing.assert_close(grid, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")

    with pytest.raises(BundleError, match="neither of mobilenet_v2 nor of EfficientNet-Lite2"):
        load_teacher(tmp_path / "weights.pth")
