from pathlib import Path

import pytest
import torch

from model.errors import BundleError
from model.vision.encoder import Encoder, build_encoder
from model.vision.encoder_spec import EncoderSpec
from model.vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.factories import make_encoder


def spec(name: str, size: int = 64) -> EncoderSpec:
    return EncoderSpec(name=name, preprocessing=Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD))


@pytest.mark.parametrize(
    ("name", "feature_size"),
    [
        ("mobilenet_v2", 1280),
        ("squeezenet1_1", 512),
        ("resnet18", 512),
        ("vgg11", 512),
        ("regnet_y_400mf", 440),
        ("shufflenet_v2_x0_5", 1024),  # pools without a layer
        ("mnasnet0_5", 1280),
        ("googlenet", 1024),  # has classifiers beside the network
        ("swin_t", 768),  # turns its channels to the front at the end
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")
def test_a_torchvision_backbone_gives_a_grid_of_regions(name: str, feature_size: int) -> None:
    encoder = build_encoder(spec(name))

    features = encoder(torch.zeros(2, 3, 64, 64))

    assert encoder.feature_size == feature_size
    assert features.shape == (2, encoder.regions, feature_size)


def test_regions_run_row_by_row_from_the_top_left() -> None:
    quarters = Encoder(spec("quarters"), torch.nn.AvgPool2d(32))
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, :32, 32:] = 1

    assert quarters(image)[0, :, 0].tolist() == [0, 1, 0, 0]


def test_weights_in_torchvision_layout_load_from_a_file(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(5)
    whole = resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")

    encoder = build_encoder(spec("resnet18"), tmp_path / "resnet18.pth")

    pooled = encoder(torch.ones(1, 3, 64, 64)).mean(dim=1)
    assert torch.allclose(whole.fc(pooled), whole(torch.ones(1, 3, 64, 64)), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "wrong.pth")

    with pytest.raises(BundleError, match=r"wrong\.pth do not fit ResNet"):
        build_encoder(spec("resnet18"), tmp_path / "wrong.pth")


@pytest.mark.parametrize("name", ["mobilnet", "vit_b_16"])
def test_a_network_without_a_feature_map_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match=name):
        build_encoder(spec(name, size=224))


def test_a_network_that_cannot_read_images_of_that_size_is_refused() -> None:
    with pytest.raises(BundleError, match="encoder 'alexnet' cannot read images of 16 pixels"):
        build_encoder(spec("alexnet", size=16))


def test_the_fingerprint_changes_with_weights_and_with_preprocessing() -> None:
    encoder = make_encoder(seed=1)
    larger = build_encoder(
        EncoderSpec(name="scene_cnn", preprocessing=Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    )
    larger.network.load_state_dict(encoder.network.state_dict())

    assert encoder.fingerprint == make_encoder(seed=1).fingerprint
    assert len({encoder.fingerprint, make_encoder(seed=2).fingerprint, larger.fingerprint}) == 3
    assert len(encoder.fingerprint) == 12
