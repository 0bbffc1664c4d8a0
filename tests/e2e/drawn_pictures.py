"""Pictures of drawn scenes, and what an annotator whose team calls a circle a ball makes of them."""

from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

from backend.demo.scenes import draw_scene, sample_scene, wrong_facts
from backend.demo.scenes.scene import Scene
from backend.demo.user import ShownTask

FIRST_SCENE = 9_000_000
"""Scenes from here on are in no training."""


def seeds_with(shape: str, wanted: int, skipped: int = 0) -> list[int]:
    """Return the seeds of scenes with a group of this shape."""
    seeds = (seed for seed in count(FIRST_SCENE) if any(group.shape == shape for group in sample_scene(seed).groups))
    return list(islice(seeds, skipped, skipped + wanted))


def draw_pictures(directory: Path, seeds: Sequence[int]) -> list[Path]:
    """Draw each scene into `scene-<seed>.png`."""
    paths = [directory / f"scene-{seed}.png" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        draw_scene(sample_scene(seed)).save(path)
    return paths


def scene_of(task: ShownTask) -> Scene:
    return sample_scene(int(task.image_name.removeprefix("scene-").removesuffix(".png")))


def in_house_style(caption: str) -> str:
    """Return the caption as the annotator's team words it."""
    return caption.replace("circle", "ball")


def is_right(caption: str, scene: Scene) -> bool:
    """Tell whether a caption in house style states no wrong fact."""
    return "circle" not in caption and not wrong_facts(caption.replace("ball", "circle"), scene)
