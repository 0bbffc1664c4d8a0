"""An encoder divided into what stays and what is taught is the same encoder once it is joined again."""

import pytest
import torch

from model.errors import TrainingError
from model.training.bundle_options import imagenet_encoder
from model.vision.encoder import build_encoder
from model.vision.trainable_stages import ALL, part
from model.vision.trainable_stages import join as join_parts
from tests.factories import make_encoder


@pytest.mark.parametrize("stages", [None, 0, 1, ALL])
@pytest.mark.parametrize("name", ["scene_cnn", "resnet18", "mobilenet_v2", "vgg16"])
def test_both_parts_together_see_what_the_encoder_sees(name: str, stages: int | None) -> None:
    encoder = make_encoder() if name == "scene_cnn" else build_encoder(imagenet_encoder(name, 64))
    size = encoder.spec.preprocessing.size
    images = torch.randn(2, 3, size, size)

    below, tail = part(encoder, stages)

    tail.eval()
    torch.testing.assert_close(tail(below(images)), encoder(images))
    assert join_parts(below, tail).fingerprint == encoder.fingerprint


def test_by_default_the_stages_on_the_final_grid_are_taught() -> None:
    _, tail = part(build_encoder(imagenet_encoder("mobilenet_v2", 64)))

    assert [name for name, _ in tail.stages.named_children()] == ["14", "15", "16", "17", "18"]
    assert all(value.requires_grad for value in tail.parameters())


def test_more_stages_than_there_are_cannot_be_taught() -> None:
    with pytest.raises(TrainingError, match="'mobilenet_v2' has 19 stages, cannot teach the last 20"):
        part(build_encoder(imagenet_encoder("mobilenet_v2", 64)), 20)


def test_what_is_taught_changes_neither_the_encoder_it_came_from_nor_its_statistics() -> None:
    encoder = make_encoder()
    images = torch.randn(2, 3, 32, 32)
    before = encoder(images)
    below, tail = part(encoder, 3)

    tail.train()
    tail(below(images)).sum().backward()
    with torch.no_grad():
        for value in tail.parameters():
            value.add_(1.0)

    torch.testing.assert_close(encoder(images), before)
    statistics = dict(tail.stages.named_buffers())
    assert all(torch.equal(value, encoder.network.get_buffer(name)) for name, value in statistics.items())


def test_a_network_that_starts_at_random_measures_its_statistics() -> None:
    encoder = make_encoder()
    below, tail = part(encoder, ALL, fixed_statistics=False)

    tail.train()
    tail(below(torch.randn(4, 3, 32, 32)))

    means = [value for name, value in tail.stages.named_buffers() if name.endswith("running_mean")]
    assert any(not torch.equal(mean, torch.zeros_like(mean)) for mean in means)
