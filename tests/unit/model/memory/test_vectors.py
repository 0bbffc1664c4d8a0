"""One vector for each image, the same in every process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.demo.scenes.drawing import draw_scene
from backend.demo.scenes.scene import sample_scene
from model.bundle import Bundle, load_bundle
from model.memory.evidence import are_apart
from model.memory.vectors import AXES
from tests.factories import make_bundle, make_image


@pytest.fixture(scope="module")
def photos() -> Bundle:
    return load_bundle("photos")


def test_pictures_that_look_alike_have_vectors_that_are_alike(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", seed=6)
    encoded = bundle.captioner().encode([make_image(color) for color in ("red", "#f00505", "blue")])

    red, almost, blue = bundle.space.vectors(encoded).astype(np.float32)

    assert red @ almost > 0.99
    assert red @ almost > red @ blue


def test_vectors_have_length_one_and_are_short(photos: Bundle) -> None:
    vectors = photos.space.vectors([example.features.numpy() for example in photos.replay[:5]])

    assert vectors.shape == (5, AXES)
    assert vectors.dtype == np.float16
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)


def test_main_axes_keep_most_of_the_likeness(photos: Bundle) -> None:
    features = [example.features.numpy() for example in photos.replay]
    mean, scale = photos.decoder.feature_mean.numpy(), photos.decoder.feature_scale.numpy()
    whole = np.stack([((values.astype(np.float32) - mean) * scale).mean(axis=0) for values in features])
    whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)

    vectors = photos.space.vectors(features).astype(np.float32)

    apart = ~np.eye(len(features), dtype=bool)
    together = np.corrcoef((whole @ whole.T)[apart], (vectors @ vectors.T)[apart])
    assert together[0, 1] > 0.95


def test_an_image_of_the_bundle_is_most_like_itself(photos: Bundle, tmp_path: Path) -> None:
    space = photos.space
    own = space.vectors([example.features.numpy() for example in photos.replay[:3]]).astype(np.float32)

    itself, opposite = space.nearest_own(own), space.nearest_own(-own)
    assert itself == pytest.approx(1, abs=1e-3)
    assert opposite is not None
    assert (opposite < 0.5).all()
    assert replace(make_bundle(tmp_path / "bundle"), replay=()).space.nearest_own(own) is None


def test_scenes_are_not_apart_from_those_of_their_bundle_although_all_of_them_are_alike() -> None:
    bundle = load_bundle("scenes")
    pictures = [draw_scene(sample_scene(seed), 192) for seed in range(10)]

    vectors = bundle.space.vectors(bundle.captioner().encode(pictures)).astype(np.float32)

    assert not are_apart(vectors, bundle.space.nearest_own(vectors))


def test_another_bundle_makes_vectors_of_another_name(tmp_path: Path) -> None:
    first, second = (make_bundle(tmp_path / str(seed), seed=seed).space for seed in (1, 2))

    assert first.name != second.name
    assert make_bundle(tmp_path / "again", seed=1).space.name == first.name


def test_no_image_has_no_vector(tmp_path: Path) -> None:
    space = make_bundle(tmp_path / "bundle").space

    assert space.vectors([]).shape == (0, space.length)
