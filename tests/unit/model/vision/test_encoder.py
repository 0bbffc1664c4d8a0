from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from model.errors import BundleError
from model.training.bundle_options import imagenet_encoder
from model.vision import trunks
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


@pytest.mark.parametrize(
    ("name", "feature_size", "stages"),
    [
        ("mobilenetv3_small_050", 288, 8),
        ("convnext_atto", 320, 7),
        ("tf_efficientnet_lite0", 1280, 11),
        ("resnet10t", 512, 14),
    ],
)
def test_a_backbone_of_timm_gives_a_grid_of_regions_in_stages(name: str, feature_size: int, stages: int) -> None:
    encoder = build_encoder(spec(name))

    features = encoder(torch.zeros(2, 3, 64, 64))

    assert features.shape == (2, encoder.regions, feature_size)
    assert len(list(encoder.network.children())) == stages


def test_a_backbone_of_timm_expects_its_own_colours() -> None:
    assert imagenet_encoder("tf_efficientnet_lite0").preprocessing.mean == (0.5, 0.5, 0.5)
    assert imagenet_encoder("convnext_atto").preprocessing.mean == IMAGENET_MEAN


def test_weights_of_timm_load_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole: Any = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")

    encoder = build_encoder(spec("mobilenetv3_small_050"), tmp_path / "weights.pth")

    pixels = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder.network(pixels), whole.forward_features(pixels))


@pytest.mark.parametrize(
    ("name", "proposed"),
    [("mobilnet_v2", "mobilenet_v2"), ("convnext_ato", "convnext_atto"), ("resnet-50", "resnet50")],
)
def test_an_unknown_backbone_is_refused_with_the_nearest_names(name: str, proposed: str) -> None:
    with pytest.raises(BundleError, match=rf"'{name}' is unknown: did you mean .*\b{proposed}\b"):
        build_encoder(spec(name))


def test_without_timm_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "find_spec", lambda _: None)

    with pytest.raises(BundleError, match=r"label-studio-captioner\[timm\]"):
        build_encoder(spec("efficientvit_b0_not_there"))


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
