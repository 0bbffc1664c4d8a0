"""The score of a bundle's captions before anybody judged them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from model.bundle import load_bundle
from model.errors import BundleError
from model.export import export_bundle
from model.first_score import FamiliarImages, FirstScore, JudgedPhoto, fit_first_score
from model.manifest import FAMILIAR, bundle_version, write_first_score
from model.runtime.serving_bundle import load_serving_bundle
from tests.factories import make_first_score, write_bundle

DOG, CAT = "a dog runs", "a cat runs"


def make_photos(count: int) -> list[JudgedPhoto]:
    """A decoder that is far too sure: what it gives 0.9 is right in half of the cases, and in none if it is strange."""
    draw = random.Random(0)
    photos = []
    for _ in range(count):
        own_score, strangeness = draw.uniform(0.5, 0.99), draw.uniform(0.5, 2.0)
        is_right = draw.random() < (own_score - 0.4) * (2.0 - strangeness)
        photos.append(
            JudgedPhoto(
                caption=DOG, own_score=own_score, references=(DOG if is_right else CAT,), strangeness=strangeness
            )
        )
    return photos


def test_a_fit_says_how_often_a_caption_is_right_and_little_for_strange_images() -> None:
    photos = make_photos(1000)

    score = fit_first_score(photos, make_first_score(4).familiar)

    sure = [photo for photo in photos if photo.own_score > 0.8 and photo.strangeness < 1]
    share = sum(photo.is_right for photo in sure) / len(sure)
    mean = sum(score.score(photo.own_score, photo.caption, photo.strangeness) for photo in sure) / len(sure)
    assert mean == pytest.approx(share, abs=0.08)
    assert score.error < 0.08
    assert score.score(0.9, DOG, 2.0) < 0.2 < score.score(0.9, DOG, 0.6)


def test_an_image_off_the_plane_of_the_known_images_is_strange() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(300, 3)) @ draw.normal(size=(3, 100))
    familiar = FamiliarImages.of(images)

    of_the_kind = familiar.strangeness(np.stack([images[0], images[1]]))
    of_another = familiar.strangeness(draw.normal(size=(2, 100)))

    assert of_the_kind < 0.1
    assert of_another > 1


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
    features = np.ones((4, len(written.familiar.center)))
    for read in (load_bundle(str(bundle)), load_serving_bundle(str(bundle)), load_bundle(str(tmp_path / "smaller"))):
        assert isinstance(read.first_score, FirstScore)
        assert read.first_score.to_json() == written.to_json()
        assert read.captioner().temperature == 1.6
        strangeness = read.first_score.familiar.strangeness(features)
        assert strangeness == pytest.approx(written.familiar.strangeness(features), rel=0.01)


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
