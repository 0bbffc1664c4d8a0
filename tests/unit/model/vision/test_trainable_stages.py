"""An encoder that is split into frozen and trainable stages is the same encoder once it is joined again."""

import pytest
import torch

from model.errors import TrainingError
from model.training.bundle_options import imagenet_encoder
from model.vision.encoder import build_encoder
from model.vision.trainable_stages import ALL, join_encoder, split_encoder
from tests.factories import make_encoder


@pytest.mark.parametrize("stages", [None, 0, 1, ALL])
@pytest.mark.parametrize("name", ["scene_cnn", "resnet18", "mobilenet_v2", "vgg16"])
def test_both_parts_together_give_the_features_of_the_encoder(name: str, stages: int | None) -> None:
    encoder = make_encoder() if name == "scene_cnn" else build_encoder(imagenet_encoder(name, 64))
    size = encoder.spec.preprocessing.size
    images = torch.randn(2, 3, size, size)

    below, above = split_encoder(encoder, stages)

    above.eval()
    torch.testing.assert_close(above(below(images)), encoder(images))
    assert join_encoder(below, above).fingerprint == encoder.fingerprint


def test_by_default_the_stages_on_the_final_grid_are_trained() -> None:
    _, above = split_encoder(build_encoder(imagenet_encoder("mobilenet_v2", 64)))

    assert [name for name, _ in above.stages.named_children()] == ["14", "15", "16", "17", "18"]
    assert all(value.requires_grad for value in above.parameters())


def test_more_stages_than_there_are_cannot_be_trained() -> None:
    with pytest.raises(TrainingError, match="'mobilenet_v2' has 19 stages: choose 0 to 19 of them to train, got 20"):
        split_encoder(build_encoder(imagenet_encoder("mobilenet_v2", 64)), 20)


def test_training_the_stages_changes_neither_the_encoder_nor_its_statistics() -> None:
    encoder = make_encoder()
    images = torch.randn(2, 3, 32, 32)
    before = encoder(images)
    below, above = split_encoder(encoder, 3)

    above.train()
    above(below(images)).sum().backward()
    with torch.no_grad():
        for value in above.parameters():
            value.add_(1.0)

    torch.testing.assert_close(encoder(images), before)
    statistics = dict(above.stages.named_buffers())
    assert all(torch.equal(value, encoder.network.get_buffer(name)) for name, value in statistics.items())


def test_a_network_that_starts_at_random_measures_its_statistics() -> None:
    encoder = make_encoder()
    below, above = split_encoder(encoder, ALL, fixed_statistics=False)

    above.train()
    above(below(torch.randn(4, 3, 32, 32)))

    means = [value for name, value in above.stages.named_buffers() if name.endswith("running_mean")]
    assert any(not torch.equal(mean, torch.zeros_like(mean)) for mean in means)
