"""The score of a bundle's captions before anybody judged them."""

import json
import random
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from model.bundle import load_bundle
from model.errors import BundleError
from model.export import export_bundle
from model.first_score import FamiliarImages, FirstScore, ImagePosition, JudgedPhoto, fit_first_score
from model.manifest import FAMILIAR, bundle_version, write_first_score
from model.runtime.serving_bundle import load_serving_bundle
from tests.factories import make_first_score, write_bundle

DOG, CAT = "a dog runs", "a cat runs"


def make_photos(count: int) -> list[JudgedPhoto]:
    """A decoder that is far too sure: it is right more often on the one side of the world than on the other."""
    draw = random.Random(0)
    photos = []
    for _ in range(count):
        own_score, side = draw.uniform(0.5, 0.99), draw.choice((-1.0, 1.0))
        references = (DOG if draw.random() < (own_score - 0.4) * (1 + 0.3 * side) else CAT,)
        image = make_position(draw.uniform(0.1, 0.3), side)
        photos.append(JudgedPhoto(caption=DOG, own_score=own_score, references=references, image=image))
    return photos


def make_position(distance: float, side: float) -> ImagePosition:
    return ImagePosition(distance=distance, coordinates=np.array([side, 0.0]))


def test_a_fit_says_how_often_a_caption_is_right() -> None:
    photos = make_photos(1000)

    score = fit_first_score(photos, make_first_score(4).familiar)

    sure = [photo for photo in photos if photo.own_score > 0.8]
    share = sum(photo.is_right for photo in sure) / len(sure)
    scores: dict[float, list[float]] = {side: [] for side in (-1.0, 1.0)}
    for photo in sure:
        scores[photo.image.coordinates[0]].append(score.score(photo.own_score, photo.caption, photo.image))
    assert fmean(scores[-1.0] + scores[1.0]) == pytest.approx(share, abs=0.08)
    assert fmean(scores[1.0]) > fmean(scores[-1.0]) + 0.1
    assert score.error < 0.08


def test_an_image_stranger_than_all_of_the_fit_has_a_low_score() -> None:
    score = fit_first_score(make_photos(1000), make_first_score(4).familiar)

    familiar, strange = (score.score(0.9, DOG, make_position(distance, 1.0)) for distance in (0.2, 0.5))

    assert strange < 0.1
    assert familiar > 0.4


def test_an_image_off_the_plane_of_the_known_images_is_strange() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(300, 3)) @ draw.normal(size=(3, 100))
    familiar = FamiliarImages.of(images)

    of_the_kind = familiar.position(np.stack([images[0], images[1]]))
    of_another = familiar.position(draw.normal(size=(2, 100)))

    assert of_the_kind.distance < 0.01
    assert of_another.distance > 0.5


def test_the_brightness_of_features_does_not_make_an_image_strange() -> None:
    images = np.random.default_rng(0).normal(size=(300, 100))
    familiar = FamiliarImages.of(images)

    once, twice = (familiar.position(factor * images[:2]) for factor in (1, 2))

    assert once.distance == pytest.approx(twice.distance)
    assert once.coordinates == pytest.approx(twice.coordinates)


def test_a_bundle_keeps_its_score_in_every_form(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    description = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(description | {"temperature": 1.6}))
    before = bundle_version(str(bundle))
    assert load_serving_bundle(str(bundle)).first_score is None
    written = make_first_score(load_bundle(str(bundle)).encoder.feature_size)

    write_first_score(bundle, written)

    assert bundle_version(str(bundle)) != before
    export_bundle(str(bundle), "int8", tmp_path / "smaller")
    features = np.ones((4, len(written.familiar.axes)))
    for read in (load_bundle(str(bundle)), load_serving_bundle(str(bundle)), load_bundle(str(tmp_path / "smaller"))):
        assert isinstance(read.first_score, FirstScore)
        assert read.first_score.to_json() == written.to_json()
        assert read.captioner().temperature == 1.6
        now, then = (score.familiar.position(features) for score in (read.first_score, written))
        assert now.distance == pytest.approx(then.distance, abs=0.05)
        assert now.coordinates == pytest.approx(then.coordinates, abs=0.05)


@pytest.mark.parametrize("temperature", [0, -1, "hot", None])
def test_a_temperature_that_is_none_is_refused(tmp_path: Path, temperature: object) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    description = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(description | {"temperature": temperature}))

    for load in (load_bundle, load_serving_bundle):
        with pytest.raises(BundleError, match="temperature must be a number above 0"):
            load(str(bundle))


@pytest.mark.parametrize("content", [b"", b"[]", b"half"])
def test_a_damaged_file_of_known_images_is_named(tmp_path: Path, content: bytes) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    write_first_score(bundle, make_first_score(load_bundle(str(bundle)).encoder.feature_size))
    (bundle / FAMILIAR).write_bytes(content)

    with pytest.raises(BundleError, match=r"familiar\.safetensors"):
        load_bundle(str(bundle))
