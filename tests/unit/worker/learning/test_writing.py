from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.torch_captioner import TorchCaptioner
from tests.factories import make_captioner, make_correction
from worker.learning.dataset import CorrectedImage, Dataset
from worker.learning.writing import CAPTIONED, OF_ONE_KIND, Writer, Writing, Written

CLEAN, LOOP = Written(caption="a dog"), Written(caption="a dog a dog", faults=("loop",))


def make_writing(candidate: int, serving: int, of: int = 64, people: int = 200, people_faulty: int = 2) -> Writing:
    """The first captions are faulty."""
    return Writing(
        candidate=(LOOP,) * candidate + (CLEAN,) * (of - candidate),
        serving=(LOOP,) * serving + (CLEAN,) * (of - serving),
        people=people,
        people_faulty=people_faulty,
    )


@pytest.mark.parametrize(
    ("candidate", "serving", "is_clean"),
    [(0, 0, True), (4, 0, True), (5, 0, False), (9, 1, False), (9, 6, True), (1, 9, True), (64, 64, True)],
)
def test_faults_count_if_the_served_version_has_clearly_fewer(candidate: int, serving: int, is_clean: bool) -> None:
    assert make_writing(candidate, serving).is_clean == is_clean


def test_faults_that_people_have_too_do_not_count() -> None:
    assert not make_writing(8, 0, people_faulty=2).is_clean
    assert make_writing(8, 0, people_faulty=20).is_clean


def test_a_few_captions_show_only_what_is_clear() -> None:
    assert make_writing(4, 0, of=8).is_clean
    assert not make_writing(8, 0, of=8).is_clean
    assert make_writing(0, 0, of=0).is_clean


def test_a_caption_is_spoiled_if_only_the_candidate_makes_a_fault() -> None:
    writing = replace(make_writing(2, 0, of=3), serving=(LOOP, CLEAN, LOOP))

    assert writing.faulty == (2, 2)
    assert writing.spoiled == (LOOP,)
    assert writing.summary() == {
        "captions": 3,
        "candidate": 2,
        "serving": 2,
        "people": 0.01,
        "examples": [{"caption": "a dog a dog", "faults": ["loop"]}],
    }


def make_dataset(captioner: TorchCaptioner, learned: int, held_out: int, anchors: int) -> Dataset:
    spec = captioner.encoder
    order = torch.Generator().manual_seed(0)

    def examples(count: int) -> list[CaptionedFeatures]:
        shape = (spec.regions, spec.feature_size)
        features = [torch.rand(shape, generator=order) for _ in range(count)]
        return [CaptionedFeatures(features=values, caption="a red circle") for values in features]

    def corrected(count: int) -> Sequence[CorrectedImage]:
        correction = make_correction(caption="a red circle")
        return [CorrectedImage(correction=correction, example=example, is_new=True) for example in examples(count)]

    return Dataset(
        learned=tuple(corrected(learned)),
        held_out=tuple(corrected(held_out)),
        replay=(),
        anchors=tuple(examples(anchors)),
        left_out={},
    )


def test_the_same_version_writes_the_same_and_so_is_clean() -> None:
    captioner = make_captioner()
    dataset = make_dataset(captioner, learned=3, held_out=2, anchors=1)

    writing = Writer(captioner, dataset).compare(captioner)

    assert writing.candidate == writing.serving
    assert (len(writing.candidate), writing.people, writing.people_faulty) == (6, 6, 0)
    assert writing.is_clean


def test_the_number_of_captioned_images_is_bounded() -> None:
    captioner = make_captioner()

    many = Writer(captioner, make_dataset(captioner, learned=100, held_out=100, anchors=100)).compare(captioner)
    few = Writer(captioner, make_dataset(captioner, learned=100, held_out=0, anchors=0)).compare(captioner)

    assert (len(many.candidate), len(few.candidate)) == (CAPTIONED, OF_ONE_KIND)


def test_an_empty_dataset_has_nothing_to_write() -> None:
    captioner = make_captioner()

    assert Writer(captioner, make_dataset(captioner, 0, 0, 0)).compare(captioner).is_clean
