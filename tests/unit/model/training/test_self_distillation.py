from dataclasses import replace

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.tokenizer import caption_tokens
from model.torch_captioner import TorchCaptioner
from model.training.batches import padded
from model.training.losses import caption_loss
from model.training.self_distillation import expected_words
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from tests.factories import make_captioner, make_image, training_features


@pytest.fixture(scope="module")
def captioner() -> TorchCaptioner:
    return make_captioner()


def worded(captioner: TorchCaptioner, caption: str, *paraphrases: str) -> CaptionedFeatures:
    [features] = training_features(captioner, [make_image()])
    return CaptionedFeatures(features=features, caption=caption, paraphrases=paraphrases)


def expectations(captioner: TorchCaptioner, example: CaptionedFeatures) -> torch.Tensor:
    """Return the probabilities [M, V] of all words along the caption."""
    tokens = padded([caption_tokens(captioner.tokenizer, example.caption)])
    with torch.no_grad():
        logits: torch.Tensor = captioner.decoder.eval()(example.features.float().unsqueeze(0), tokens)
    return logits.softmax(dim=1)


def test_the_words_that_a_caption_shares_with_its_paraphrase_keep_their_probabilities(
    captioner: TorchCaptioner,
) -> None:
    example = worded(captioner, "two a red circle", "a red circle")

    [targets] = expected_words(captioner, captioner.tokenizer, [example])

    assert targets is not None
    assert targets.places.tolist() == [1, 2, 3, 4]
    paraphrased = expectations(captioner, replace(example, caption="a red circle"))
    torch.testing.assert_close(targets.probabilities.float(), paraphrased, atol=1e-3, rtol=0)


def test_words_outside_of_the_captioners_vocabulary_are_learned(captioner: TorchCaptioner) -> None:
    tokenizer = captioner.tokenizer.extended(["crimson"], min_count=1)

    [targets] = expected_words(captioner, tokenizer, [worded(captioner, "a crimson circle", "a red circle")])

    assert targets is not None
    assert targets.places.tolist() == [0, 2, 3]


def test_the_most_probable_paraphrase_is_used(captioner: TorchCaptioner) -> None:
    used = make_captioner()
    wanted = worded(captioner, "two red circle", "a red circle", "two red circle")
    fit_decoder(used.decoder, used.tokenizer, [wanted], [], TrainingOptions(epochs=30, learning_rate=1e-2, dropout=0.0))

    [targets] = expected_words(used, used.tokenizer, [wanted])

    assert targets is not None
    assert targets.places.tolist() == [0, 1, 2, 3]
    assert int(targets.probabilities[0].argmax()) == used.tokenizer.encode("two")[0]


def test_a_caption_without_a_paraphrase_has_no_targets(captioner: TorchCaptioner) -> None:
    plain, paraphrased = worded(captioner, "a red circle"), worded(captioner, "a red circle", "a red circle")

    targets = expected_words(captioner, captioner.tokenizer, [plain, paraphrased, paraphrased])

    assert [target is None for target in targets] == [True, False, False]


def test_a_decoder_with_the_same_predictions_has_no_gradient(captioner: TorchCaptioner) -> None:
    plain, paraphrased = worded(captioner, "a red circle"), worded(captioner, "a red circle", "a red circle")
    tokens = padded([caption_tokens(captioner.tokenizer, "a red circle")] * 2)
    expected = expected_words(captioner, captioner.tokenizer, [plain, paraphrased])

    def gradient(weights: list[float]) -> float:
        features = torch.stack([plain.features, paraphrased.features]).float()
        logits = captioner.decoder(features, tokens)
        loss = caption_loss(logits, tokens, torch.tensor(weights), expected=expected)
        return float(torch.autograd.grad(loss, [captioner.decoder.bias])[0].abs().max())

    assert gradient([0.0, 1.0]) < 1e-3 < gradient([1.0, 0.0])
