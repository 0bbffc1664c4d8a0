import random
import re

import pytest

from backend.demo.scenes.drawing import draw_scenes
from backend.demo.scenes.wording import write_captions
from model.bundle import load_bundle
from model.captioned_features import CaptionedFeatures
from model.torch_captioner import TorchCaptioner
from tests.factories import training_features
from worker.learning.relevance import Relevance, measure_relevance, written_by


@pytest.fixture(scope="module")
def captioner() -> TorchCaptioner:
    return load_bundle("scenes").captioner()


@pytest.fixture(scope="module")
def examples(captioner: TorchCaptioner) -> list[CaptionedFeatures]:
    """Drawn scenes with captions that are right."""
    pictured = draw_scenes(16, seed=77, size=192)
    features = training_features(captioner, [picture for picture, _ in pictured])
    captions = [write_captions(scene, 1, seed=number)[0] for number, (_, scene) in enumerate(pictured)]
    return [CaptionedFeatures(features=image, caption=text) for image, text in zip(features, captions, strict=True)]


def with_captions(examples: list[CaptionedFeatures], captions: list[str]) -> list[CaptionedFeatures]:
    return [
        CaptionedFeatures(features=example.features, caption=text)
        for example, text in zip(examples, captions, strict=True)
    ]


def relevance(captioner: TorchCaptioner, examples: list[CaptionedFeatures]) -> Relevance:
    measured = measure_relevance(captioner, examples)
    assert measured is not None
    return measured


def test_right_captions_describe_their_images_in_any_style(
    captioner: TorchCaptioner, examples: list[CaptionedFeatures]
) -> None:
    styled = [f"in this picture we see {example.caption}, photographed" for example in examples]

    assert relevance(captioner, examples).is_sure
    assert relevance(captioner, with_captions(examples, styled)).is_sure
    assert relevance(captioner, written_by(captioner, examples)).won > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_bad_captions_fit_any_image(captioner: TorchCaptioner, examples: list[CaptionedFeatures], seed: int) -> None:
    draw = random.Random(seed)
    captions = [example.caption for example in examples]
    bad = {
        "shuffled": draw.sample(captions, len(captions)),
        "one for all": [captions[seed]] * len(captions),
        "vandalism": ["".join(draw.choice("asdfjkl ") for _ in range(30)) for _ in captions],
        "nearly nothing": [draw.choice(["a", "picture", "ok", "."]) for _ in captions],
        "another language": ["".join(draw.choice("一只狗在跑两个红色圆形") for _ in range(9)) for _ in captions],
    }

    for name, texts in bad.items():
        assert not relevance(captioner, with_captions(examples, texts)).is_sure, name


def test_the_number_of_unknown_words_says_nothing_about_the_image(
    captioner: TorchCaptioner, examples: list[CaptionedFeatures]
) -> None:
    unknown = [re.sub(r"\w+,?", "hund", example.caption) for example in examples]

    measured = relevance(captioner, with_captions(examples, unknown))

    assert measured.won == pytest.approx(0.5)
    assert not measured.is_sure


def test_one_caption_has_no_relevance_and_four_captions_have_no_sure_one(
    captioner: TorchCaptioner, examples: list[CaptionedFeatures]
) -> None:
    assert measure_relevance(captioner, examples[:1]) is None
    assert relevance(captioner, examples[:4]).won > 0.7
    assert not relevance(captioner, examples[:4]).is_sure
