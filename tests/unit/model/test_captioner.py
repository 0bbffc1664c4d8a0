import math

import pytest

from model.captioner import normalized_caption
from model.decoders.search import DecodingOptions
from model.torch_captioner import TorchCaptioner
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from tests.factories import make_captioner, make_decoder, make_encoder, make_image, make_replay, make_tokenizer


def test_images_of_any_size_are_captioned_in_one_batch() -> None:
    captioner = make_captioner()

    features = captioner.encode([make_image(size=(300, 20)), make_image("blue", size=(9, 9))])

    assert features.shape == (2, captioner.encoder.regions, captioner.encoder.feature_size)
    assert len(captioner.caption(features, DecodingOptions())) == 2


def test_the_score_is_the_mean_probability_of_a_token() -> None:
    captioner = make_captioner()
    features = captioner.encode([make_image()])

    (caption,) = captioner.caption(features, DecodingOptions(max_tokens=5))[0]

    assert 0 <= caption.score <= 1
    assert caption.score == pytest.approx(math.exp(caption.log_prob / (len(caption.tokens) + 1)))
    assert caption.attention.shape == (len(caption.tokens), captioner.encoder.regions)


def test_alternatives_are_distinct_as_texts_and_the_best_comes_first() -> None:
    captioner = make_captioner()
    fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], TrainingOptions(epochs=40))
    features = captioner.encode([make_image()])

    captions = captioner.caption(features, DecodingOptions(alternatives=3))[0]

    texts = [caption.text for caption in captions]
    assert len(texts) == len(set(texts)) == 3
    ranks = [caption.log_prob / (len(caption.tokens) + 1) ** 0.7 for caption in captions]
    assert ranks[0] == max(ranks)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A dog runs.", "a dog runs"),
        ("a dog on the grass", "the dog on grass"),
        ("two dogs, one ball", "two dogs - one ball"),
        ("a side walk", "a sidewalk"),
        ("一只狗。", "一 只 狗"),
    ],
)
def test_captions_that_differ_in_case_punctuation_articles_or_spaces_are_the_same(first: str, second: str) -> None:
    assert normalized_caption(first) == normalized_caption(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a dog in the grass", "a dog on the grass"), ("two dogs", "two dog"), ("一只狗", "一只猫"), ("कि", "की")],
)
def test_captions_that_differ_in_a_word_are_different(first: str, second: str) -> None:
    assert normalized_caption(first) != normalized_caption(second)


def test_equal_alternatives_are_shown_once() -> None:
    tokenizer = make_tokenizer(("a", "the", "dog", "Dog", "."))
    encoder = make_encoder()
    captioner = TorchCaptioner(encoder, make_decoder(encoder.feature_size, tokenizer.size), tokenizer, "tiny-00000000")
    features = captioner.encode([make_image(), make_image("blue")])

    of_images = captioner.caption(features, DecodingOptions(beam_size=5, alternatives=5, max_tokens=3))

    for captions in of_images:
        assert len({normalized_caption(caption.text) for caption in captions}) == len(captions)


def test_stored_half_precision_features_give_the_same_captions() -> None:
    captioner = make_captioner()
    stored = make_replay(captioner)[0].features

    captions = captioner.caption(stored.unsqueeze(0), DecodingOptions(max_tokens=5))

    fresh = captioner.caption(captioner.encode([make_image("red")]), DecodingOptions(max_tokens=5))
    assert captions[0][0].text == fresh[0][0].text
