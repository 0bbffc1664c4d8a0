import random
import re

import pytest

from backend.demo.scenes.drawing import draw_scenes
from backend.demo.scenes.wording import write_captions
from model.bundle import load_bundle
from model.captioner import Captioner
from model.training.teacher_forcing import CaptionedFeatures
from worker.learning.relevance import Relevance, measure_relevance, written_by


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return load_bundle("scenes").captioner()


@pytest.fixture(scope="module")
def examples(captioner: Captioner) -> list[CaptionedFeatures]:
    """Drawn scenes with captions that are right."""
    pictured = draw_scenes(16, seed=77, size=192)
    features = captioner.encode([picture for picture, _ in pictured]).half()
    captions = [write_captions(scene, 1, seed=number)[0] for number, (_, scene) in enumerate(pictured)]
    return [CaptionedFeatures(features=seen, caption=text) for seen, text in zip(features, captions, strict=True)]


def with_captions(examples: list[CaptionedFeatures], captions: list[str]) -> list[CaptionedFeatures]:
    return [
        CaptionedFeatures(features=example.features, caption=text)
        for example, text in zip(examples, captions, strict=True)
    ]


def relevance(captioner: Captioner, examples: list[CaptionedFeatures]) -> Relevance:
    found = measure_relevance(captioner, examples)
    assert found is not None
    return found


def test_right_captions_are_about_their_images_in_whatever_style(
    captioner: Captioner, examples: list[CaptionedFeatures]
) -> None:
    styled = [f"in this picture we see {example.caption}, photographed" for example in examples]

    assert relevance(captioner, examples).is_sure
    assert relevance(captioner, with_captions(examples, styled)).is_sure
    assert relevance(captioner, written_by(captioner, examples)).won > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_bad_captions_suit_any_image(captioner: Captioner, examples: list[CaptionedFeatures], seed: int) -> None:
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


def test_how_many_words_nobody_knows_a_caption_has_says_nothing_of_its_image(
    captioner: Captioner, examples: list[CaptionedFeatures]
) -> None:
    unknown = [re.sub(r"\w+,?", "hund", example.caption) for example in examples]

    found = relevance(captioner, with_captions(examples, unknown))

    assert found.won == pytest.approx(0.5)
    assert not found.is_sure


def test_of_one_caption_nothing_can_be_said_and_of_four_nothing_sure(
    captioner: Captioner, examples: list[CaptionedFeatures]
) -> None:
    assert measure_relevance(captioner, examples[:1]) is None
    assert relevance(captioner, examples[:4]).won > 0.7
    assert not relevance(captioner, examples[:4]).is_sure
