from dataclasses import replace

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.captioner import Captioner
from model.training.batches import caption_tokens, padded
from model.training.losses import caption_loss
from model.training.self_distillation import expected_words
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from tests.factories import make_captioner, make_image


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return make_captioner()


def worded(captioner: Captioner, caption: str, *paraphrases: str) -> CaptionedFeatures:
    [features] = captioner.encode([make_image()]).half()
    return CaptionedFeatures(features=features, caption=caption, paraphrases=paraphrases)


def expectations(captioner: Captioner, example: CaptionedFeatures) -> torch.Tensor:
    """Return the probabilities [M, V] of all words along the caption."""
    tokens = padded([caption_tokens(captioner.tokenizer, example.caption)])
    with torch.no_grad():
        logits: torch.Tensor = captioner.decoder.eval()(example.features.float().unsqueeze(0), tokens)
    return logits.softmax(dim=1)


def test_a_caption_takes_over_what_is_expected_along_the_same_words_of_its_wording(captioner: Captioner) -> None:
    example = worded(captioner, "two a red circle", "a red circle")

    [found] = expected_words(captioner, captioner.tokenizer, [example])

    assert found is not None
    assert found.places.tolist() == [1, 2, 3, 4]
    known = expectations(captioner, replace(example, caption="a red circle"))
    torch.testing.assert_close(found.probabilities.float(), known, atol=1e-3, rtol=0)


def test_words_that_the_captioner_does_not_know_are_to_be_learned(captioner: Captioner) -> None:
    tokenizer = captioner.tokenizer.extended(["crimson"], min_count=1)

    [found] = expected_words(captioner, tokenizer, [worded(captioner, "a crimson circle", "a red circle")])

    assert found is not None
    assert found.places.tolist() == [0, 2, 3]


def test_a_captioner_that_is_used_to_a_wording_is_asked_in_it(captioner: Captioner) -> None:
    used = make_captioner()
    wanted = worded(captioner, "two red circle", "a red circle", "two red circle")
    fit_decoder(used.decoder, used.tokenizer, [wanted], [], TrainingOptions(epochs=30, learning_rate=1e-2, dropout=0.0))

    [found] = expected_words(used, used.tokenizer, [wanted])

    assert found is not None
    assert found.places.tolist() == [0, 1, 2, 3]
    assert int(found.probabilities[0].argmax()) == used.tokenizer.encode("two")[0]


def test_a_caption_without_another_wording_is_learned_as_it_is(captioner: Captioner) -> None:
    plain, known = worded(captioner, "a red circle"), worded(captioner, "a red circle", "a red circle")

    assert [found is None for found in expected_words(captioner, captioner.tokenizer, [plain, known, known])] == [
        True,
        False,
        False,
    ]


def test_a_decoder_that_expects_what_it_did_has_nothing_to_learn(captioner: Captioner) -> None:
    plain, known = worded(captioner, "a red circle"), worded(captioner, "a red circle", "a red circle")
    tokens = padded([caption_tokens(captioner.tokenizer, "a red circle")] * 2)
    expected = expected_words(captioner, captioner.tokenizer, [plain, known])

    def gradient(weights: list[float]) -> float:
        features = torch.stack([plain.features, known.features]).float()
        logits = captioner.decoder(features, tokens)
        loss = caption_loss(logits, tokens, torch.tensor(weights), expected=expected)
        return float(torch.autograd.grad(loss, [captioner.decoder.bias])[0].abs().max())

    assert gradient([0.0, 1.0]) < 1e-3 < gradient([1.0, 0.0])
