import numpy as np
import pytest
from PIL import Image

from backend.demo.scenes import draw_scene, draw_scenes, sample_scene
from backend.demo.scenes.drawing import PAINTS


@pytest.mark.parametrize("size", [64, 112, 320])
def test_a_scene_is_drawn_at_any_size(size: int) -> None:
    picture = draw_scene(sample_scene(3), size)

    assert picture.size == (size, size)
    assert picture.mode == "RGB"


def test_a_size_too_small_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="16 pixels or more, got 4"):
        draw_scene(sample_scene(3), 4)


def test_the_same_scene_looks_the_same_each_time() -> None:
    assert draw_scene(sample_scene(5), 96).tobytes() == draw_scene(sample_scene(5), 96).tobytes()


def test_scenes_are_the_same_for_a_seed_and_different_within_it() -> None:
    first, again, other = (
        draw_scenes(5, seed=1, size=48),
        draw_scenes(5, seed=1, size=48),
        draw_scenes(5, seed=2, size=48),
    )

    assert [scene for _, scene in first] == [scene for _, scene in again]
    assert len({scene.seed for _, scene in [*first, *other]}) == 10


def test_an_object_has_its_colour_in_the_middle() -> None:
    scenes = [sample_scene(seed) for seed in range(60)]
    plain = [scene for scene in scenes if scene.groups[-1].shape in {"circle", "square", "cross"}]

    for scene in plain:
        group = scene.groups[-1]
        x, y = group.items[0].x, group.items[0].y
        shown = average_colour(draw_scene(scene, 128), x, y)
        nearest = min(PAINTS, key=lambda name: sum((a - b) ** 2 for a, b in zip(PAINTS[name], shown, strict=True)))

        assert nearest == group.colour


def test_edges_are_anti_aliased() -> None:
    scene = next(
        s for s in map(sample_scene, range(99)) if s.background.pattern == "plain" and not s.noise and not s.has_shadows
    )

    levels = np.unique(np.asarray(draw_scene(scene, 128)).reshape(-1, 3), axis=0)

    assert len(levels) > 20


def average_colour(picture: Image.Image, x: float, y: float) -> list[float]:
    column, row = int(x * picture.width), int(y * picture.height)
    patch = np.asarray(picture, dtype=float)[row - 2 : row + 3, column - 2 : column + 3]
    return [float(level) for level in patch.mean(axis=(0, 1))]
