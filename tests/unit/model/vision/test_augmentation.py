"""Views differ from their picture, are the same each time, have its size, and are mirrored by their number."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.errors import TrainingError
from model.vision.augmentation import AS_IT_IS, Augmentation, View

KEY = "0a" * 32


def half_and_half() -> Image.Image:
    """Dark on the left, bright on the right."""
    picture = Image.new("RGB", (60, 40), (60, 60, 60))
    picture.paste((180, 180, 180), (30, 0, 60, 40))
    return picture


def is_bright_on_the_right(image: Image.Image) -> bool:
    values = np.asarray(image.convert("L"), dtype=float)
    return bool(values[:, -10:].mean() > values[:, :10].mean())


def test_the_first_two_views_are_the_picture_and_its_mirror_image() -> None:
    picture = half_and_half()
    augmentation = Augmentation(rotation=20)

    assert augmentation.view(picture, KEY, 0) == picture
    assert augmentation.view(picture, KEY, 1) == ImageOps.mirror(picture)
    assert AS_IT_IS.of(picture, KEY) == picture


def test_every_other_view_is_mirrored_and_all_have_the_picture_s_size() -> None:
    augmentation = Augmentation(crop=0.8, rotation=5, colour=0.3)

    views = [augmentation.view(half_and_half(), KEY, number) for number in range(20)]

    assert [is_bright_on_the_right(view) for view in views] == [number % 2 == 0 for number in range(20)]
    assert {view.size for view in views} == {(60, 40)}
    assert len({view.tobytes() for view in views}) == 20


def test_a_view_is_the_same_each_time_and_another_for_another_picture() -> None:
    view = View(number=4)

    assert view.of(half_and_half(), KEY) == view.of(half_and_half(), KEY)
    assert view.of(half_and_half(), KEY) != view.of(half_and_half(), "0b" * 32)


def test_an_augmentation_that_is_off_changes_nothing() -> None:
    plain = Augmentation(crop=1, rotation=0, colour=0)

    assert plain.view(half_and_half(), KEY, 6) == half_and_half()


def test_features_of_views_are_kept_under_names_that_tell_them_apart() -> None:
    views = [*(View(number=number) for number in range(4)), View(number=2, augmentation=Augmentation(rotation=10))]

    assert AS_IT_IS.key == ""
    assert len({view.key for view in views}) == 5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"crop": 0}, "crop must be a share of the image above 0 and at most 1, got 0"),
        ({"rotation": -1}, "rotation must be 0 to 180 degrees, got -1"),
        ({"colour": 1}, "colour must be at least 0 and below 1, got 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float], problem: str) -> None:
    with pytest.raises(TrainingError, match=problem):
        Augmentation(**changes)
