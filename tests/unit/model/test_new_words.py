import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.new_words import with_new_words
from model.tokenizer import END, START, caption_tokens
from model.torch_captioner import TorchCaptioner
from tests.factories import make_captioner, make_image, training_features


@pytest.fixture(scope="module")
def captioner() -> TorchCaptioner:
    return make_captioner()


def example(captioner: TorchCaptioner, caption: str, color: str = "red") -> CaptionedFeatures:
    return CaptionedFeatures(features=training_features(captioner, [make_image(color)])[0], caption=caption)


def test_old_words_are_as_probable_as_before_relative_to_each_other(captioner: TorchCaptioner) -> None:
    tokenizer = captioner.tokenizer.extended(["a crimson circle"], min_count=1)
    tokens = torch.tensor([caption_tokens(captioner.tokenizer, "a red circle on the left")])
    features = torch.from_numpy(captioner.encode([make_image()]))

    wide = with_new_words(captioner.decoder, tokenizer, [example(captioner, "a crimson circle")])

    with torch.no_grad():
        before, after = captioner.decoder(features, tokens), wide(features, tokens)
    assert torch.equal(before, after[..., : captioner.tokenizer.size])


def test_a_new_word_starts_as_the_words_that_were_expected_in_its_place(captioner: TorchCaptioner) -> None:
    tokenizer = captioner.tokenizer.extended(["crimson"], min_count=1)
    with_crimson = example(captioner, "crimson")
    first_word = torch.tensor([[START, END]])

    wide = with_new_words(captioner.decoder, tokenizer, [with_crimson])

    with torch.no_grad():
        expected = captioner.decoder(with_crimson.features.float().unsqueeze(0), first_word)[0].softmax(dim=-1)
        logits = wide(with_crimson.features.float().unsqueeze(0), first_word)[0]
    assert torch.allclose(wide.embedding.weight[-1], expected @ captioner.decoder.embedding.weight, atol=1e-6)
    assert torch.allclose(wide.bias[-1], expected @ captioner.decoder.bias, atol=1e-6)
    assert logits[-1] > logits[:-1].mean()


def test_the_mean_is_over_all_places_of_the_word(captioner: TorchCaptioner) -> None:
    tokenizer = captioner.tokenizer.extended(["crimson"], min_count=1)
    examples = [example(captioner, "crimson", color) for color in ("red", "green", "blue")] * 30

    rows = [with_new_words(captioner.decoder, tokenizer, [color]).embedding.weight[-1] for color in examples[:3]]
    together = with_new_words(captioner.decoder, tokenizer, examples).embedding.weight[-1]

    assert torch.allclose(together, torch.stack(rows).mean(dim=0), atol=1e-5)


def test_without_new_words_the_decoder_is_copied(captioner: TorchCaptioner) -> None:
    copy = with_new_words(captioner.decoder, captioner.tokenizer, [example(captioner, "a red circle")])

    assert copy is not captioner.decoder
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in captioner.decoder.state_dict().items())


def test_a_word_that_no_example_has_stays_improbable(captioner: TorchCaptioner) -> None:
    tokenizer = captioner.tokenizer.extended(["crimson"], min_count=1)

    wide = with_new_words(captioner.decoder, tokenizer, [example(captioner, "a red circle")])

    assert torch.equal(wide.bias[-1], captioner.decoder.bias.min())
