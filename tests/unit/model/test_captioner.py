import math

import pytest

from model.decoders.search import DecodingOptions
from model.training.captions import TrainingOptions, fit_decoder
from tests.factories import make_captioner, make_image, make_replay


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
    assert ranks == sorted(ranks, reverse=True)


def test_stored_half_precision_features_give_the_same_captions() -> None:
    captioner = make_captioner()
    stored = make_replay(captioner)[0].features

    captions = captioner.caption(stored.unsqueeze(0), DecodingOptions(max_tokens=5))

    fresh = captioner.caption(captioner.encode([make_image("red")]), DecodingOptions(max_tokens=5))
    assert captions[0][0].text == fresh[0][0].text
