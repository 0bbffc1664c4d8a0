"""Training examples: drawn scenes in the encoder's size, with captions and targets of the auxiliary loss.

Shapes:  N scenes   S image side   C grid cells along one side
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from backend.demo.scenes.drawing import draw_scene
from backend.demo.scenes.scene import COLOURS, GROUNDS, OPPOSITES, PATTERNS, SHAPES, SIZES, Group, Scene, sample_scene
from backend.demo.scenes.wording import write_captions

IMAGE_SIZE = 112
CELLS = 7
CAPTIONS_PER_SCENE = 8
OVERLAPS = ("apart", "in front of", "behind")
DRAWN_SIZES = (128, 160, 192, 256)
"""Scenes are drawn in one of these sizes, in pixels, and then resized as any picture is."""
_SCENES_PER_JOB = 200


@dataclass(frozen=True, kw_only=True)
class SceneExamples:
    """Drawn scenes in arrays."""

    images: Tensor
    """[N, 3, S, S] uint8."""
    captions: list[list[str]]
    """Captions of each scene, at least one."""
    cells: Tensor
    """Number of the group that fills most of each grid cell, [N, C * C]; -1 for none."""
    facts: Tensor
    """Shape, colour, size, count and overlap of each group as class numbers, [N, 3, 5]."""
    boxes: Tensor
    """Left, top, right, bottom of each group, [N, 3, 4]."""
    grounds: Tensor
    """Background colour and pattern as class numbers, [N, 2]."""

    def __len__(self) -> int:
        return len(self.images)


def draw_examples(seeds: Sequence[int], processes: int = 2) -> SceneExamples:
    """Draw and describe the scenes of these seeds, in several processes, with a progress bar."""
    jobs = [seeds[at : at + _SCENES_PER_JOB] for at in range(0, len(seeds), _SCENES_PER_JOB)]
    images = torch.empty(len(seeds), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    captions: list[list[str]] = []
    labels: list[Labels] = []
    bar = tqdm(total=len(seeds), desc="drawing", unit="scene", disable=None)
    with get_context("spawn").Pool(processes) as pool, bar:
        for pixels, texts, targets in pool.imap(_draw_job, jobs):
            images[len(captions) : len(captions) + len(texts)] = torch.from_numpy(pixels)
            captions += texts
            labels += targets
            bar.update(len(texts))
    cells, facts, boxes, grounds = default_collate([(x.cells, x.facts, x.boxes, x.grounds) for x in labels])
    return SceneExamples(images=images, captions=captions, cells=cells, facts=facts, boxes=boxes, grounds=grounds)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Targets of the auxiliary loss for one scene."""

    cells: NDArray[np.int64]
    facts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    grounds: NDArray[np.int64]


def _draw_job(seeds: Sequence[int]) -> tuple[NDArray[np.uint8], list[list[str]], list[Labels]]:
    scenes = [sample_scene(seed) for seed in seeds]
    pixels = np.stack([_pixels(scene) for scene in scenes])
    return pixels, [write_captions(scene, CAPTIONS_PER_SCENE) for scene in scenes], [label(scene) for scene in scenes]


def _pixels(scene: Scene) -> NDArray[np.uint8]:
    picture = draw_scene(scene, random.Random(scene.seed).choice(DRAWN_SIZES))
    squashed = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(squashed).transpose(2, 0, 1)


def label(scene: Scene) -> Labels:
    facts = np.zeros((3, 5), dtype=np.int64)
    boxes = np.zeros((3, 4), dtype=np.float32)
    for row, group in enumerate(scene.groups):
        facts[row] = class_numbers(scene, group)
        boxes[row] = group.box.left, group.box.top, group.box.right, group.box.bottom
    background = scene.background
    grounds = np.array([GROUNDS.index(background.colour), PATTERNS.index(background.pattern)])
    return Labels(cells=_cells(scene), facts=facts, boxes=boxes, grounds=grounds)


def class_numbers(scene: Scene, group: Group) -> tuple[int, ...]:
    shape, colour, size = SHAPES.index(group.shape), COLOURS.index(group.colour), SIZES.index(group.size)
    return shape, colour, size, group.count - 1, OVERLAPS.index(_overlap_of(scene, group))


def _overlap_of(scene: Scene, group: Group) -> str:
    """Return the position of a group relative to the one it overlaps."""
    if scene.overlap and group == scene.groups[-1]:
        return scene.overlap
    if scene.overlap and group == scene.groups[-2]:
        return OPPOSITES[scene.overlap]
    return "apart"


def _cells(scene: Scene, steps: int = 6) -> NDArray[np.int64]:
    """Return the number of the group that each cell shows, [C * C]; -1 for none.

    A cell shows the group with an object whose centre is in the cell. Without one it shows the group that fills most of
    the cell, if that is at least an eighth.
    """
    side = CELLS * steps
    canvas = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(canvas)
    for number, group in enumerate(scene.groups):
        for points in group.outlines:
            pen.polygon([(x * side, y * side) for x, y in points], fill=number)
    drawn = np.asarray(canvas).reshape(CELLS, steps, CELLS, steps)
    areas = np.stack([(drawn == number).sum(axis=(1, 3)) for number in range(3)])
    cells = np.where(areas.max(axis=0) >= steps * steps // 8, areas.argmax(axis=0), -1)
    for number, group in enumerate(scene.groups):
        for item in group.items:
            cells[int(item.y * CELLS), int(item.x * CELLS)] = number
    return cells.reshape(-1)


def shuffled_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of full batches of one epoch."""
    order = torch.randperm(count, generator=generator)
    yield from order[: count // size * size].view(-1, size)
