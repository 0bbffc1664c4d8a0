import math

import pytest
import torch

from model.captioner import Captioner
from model.training.captions import CaptionedFeatures
from tests.factories import make_captioner, make_image
from worker.jobs import caption_loss


@pytest.fixture
def captioner() -> Captioner:
    return make_captioner()


def test_the_loss_is_of_whole_captions_so_that_vocabularies_compare(captioner: Captioner) -> None:
    """The same network with every word equally likely: a caption of n tokens costs n times ln(V), not ln(V)."""
    for value in captioner.decoder.state_dict().values():
        value.zero_()
    features = torch.zeros(4, captioner.encoder.feature_size)
    examples = [CaptionedFeatures(features=features, caption=caption) for caption in ("a red circle", "a")]

    loss = caption_loss(captioner, examples)

    assert loss == pytest.approx(math.log(captioner.tokenizer.size) * (4 + 2) / 2, rel=1e-5)


def test_without_examples_there_is_no_loss(captioner: Captioner) -> None:
    assert caption_loss(captioner, []) is None


def test_a_word_that_a_version_cannot_write_costs_more_than_one_token_of_surprise(captioner: Captioner) -> None:
    features = captioner.encode([make_image()])[0].half()
    known = CaptionedFeatures(features=features, caption="a red circle")
    unknown = CaptionedFeatures(features=features, caption="a vermilion circle")

    with_unknown, with_known = caption_loss(captioner, [unknown]), caption_loss(captioner, [known])

    assert with_unknown is not None
    assert with_known is not None
    assert with_unknown > with_known + 5 * math.log(captioner.tokenizer.size)
