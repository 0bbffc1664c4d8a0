import math

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.torch_captioner import TorchCaptioner
from model.training.losses import best_temperature, word_losses
from tests.factories import make_captioner, make_image, training_features


@pytest.fixture
def captioner() -> TorchCaptioner:
    return make_captioner()


def test_the_loss_is_per_word_so_that_vocabularies_compare(captioner: TorchCaptioner) -> None:
    """The same network with every token equally likely: a caption costs ln(V) for each word and its end."""
    for value in captioner.decoder.state_dict().values():
        value.zero_()
    features = torch.zeros(4, captioner.encoder.feature_size)
    examples = [CaptionedFeatures(features=features, caption=caption) for caption in ("a red circle", "a")]

    losses = word_losses(captioner, examples)

    assert losses == pytest.approx([math.log(captioner.tokenizer.size)] * 2, rel=1e-5)


def test_the_hotter_the_captioner_the_more_equal_are_all_words(captioner: TorchCaptioner) -> None:
    features = training_features(captioner, [make_image()])[0]
    captioner.temperature = 1e6

    losses = word_losses(captioner, [CaptionedFeatures(features=features, caption="a red circle")])

    assert losses == pytest.approx([math.log(captioner.tokenizer.size)], rel=1e-4)


def test_a_decoder_that_is_too_sure_gets_a_high_temperature(captioner: TorchCaptioner) -> None:
    """It expects "red" everywhere, and is right at one of two tokens. At the best temperature "red" has one half."""
    weights = captioner.decoder.state_dict()
    for value in weights.values():
        value.zero_()
    features = torch.zeros(4, captioner.encoder.feature_size)
    examples = [CaptionedFeatures(features=features, caption="red")]
    assert best_temperature(captioner.decoder, captioner.tokenizer, examples) == 1.0

    weights["bias"][captioner.tokenizer.encode("red")[0]] = 10.0

    assert best_temperature(captioner.decoder, captioner.tokenizer, examples) == round(
        10 / math.log(captioner.tokenizer.size - 1), 1
    )


def test_without_examples_there_is_no_loss(captioner: TorchCaptioner) -> None:
    assert word_losses(captioner, []) == ()


def test_a_word_that_a_version_cannot_write_costs_more_than_one_token(captioner: TorchCaptioner) -> None:
    features = training_features(captioner, [make_image()])[0]
    writable = CaptionedFeatures(features=features, caption="a red circle")
    unwritable = CaptionedFeatures(features=features, caption="a vermilion circle")

    of_unwritable, of_writable = word_losses(captioner, [unwritable, writable])

    assert of_unwritable > of_writable + 5 * math.log(captioner.tokenizer.size) / 4
