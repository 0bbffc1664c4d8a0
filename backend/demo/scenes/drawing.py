"""Draw a scene at any size: flat colours with a darker rim, anti-aliased by supersampling."""

import math
import random
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from backend.demo.scenes.scene import Background, Group, Scene, sample_scene
from backend.demo.scenes.shapes import Point

Pixels = NDArray[np.float32]
Tint = tuple[int, int, int]

PAINTS: dict[str, Tint] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 210, 40),
    "green": (46, 160, 67),
    "blue": (38, 98, 217),
    "purple": (122, 48, 160),
    "pink": (250, 130, 185),
    "black": (32, 32, 36),
}
GROUND_PAINTS: dict[str, Tint] = {
    "white": (250, 250, 250),
    "grey": (178, 182, 188),
    "beige": (236, 222, 190),
    "dark": (52, 58, 72),
}
SUPERSAMPLED_SIDE = 480


def draw_scene(scene: Scene, size: int = 320) -> Image.Image:
    """Return the scene as a square RGB picture of size x size pixels."""
    if size < 16:
        raise ValueError(f"size must be 16 pixels or more, got {size}")
    scale = max(3, math.ceil(SUPERSAMPLED_SIDE / size))
    rng = random.Random(scene.seed)
    canvas = _draw_background(scene.background, size * scale)
    for group in scene.groups:
        _draw_group(canvas, group, _jittered(PAINTS[group.colour], rng), shadows=scene.has_shadows)
    return _with_noise(canvas.reduce(scale), scene)


def draw_scenes(count: int, seed: int = 0, size: int = 320) -> list[tuple[Image.Image, Scene]]:
    """Return count different scenes with their pictures; the same seed gives the same list."""
    rng = random.Random(f"scenes {seed}")
    scenes = [sample_scene(rng.getrandbits(48)) for _ in range(count)]
    return [(draw_scene(scene, size), scene) for scene in scenes]


def _draw_group(canvas: Image.Image, group: Group, paint: Tint, *, shadows: bool) -> None:
    side = canvas.width
    corners = [[(x * side, y * side) for x, y in points] for points in group.outlines]
    if shadows:
        _darken_below(canvas, corners)
    pen = ImageDraw.Draw(canvas)
    rim = _scaled(paint, 0.72) if max(paint) > 60 else (78, 78, 84)
    for points in corners:
        pen.polygon(points, fill=paint, outline=rim, width=max(2, side // 110))


def _darken_below(canvas: Image.Image, corners: list[list[Point]]) -> None:
    """Lay a soft shadow a little to the lower right of the shapes."""
    quarter, shift = canvas.width // 4, canvas.width * 0.012
    mask = Image.new("L", (quarter, quarter))
    pen = ImageDraw.Draw(mask)
    for points in corners:
        pen.polygon([((x + shift) / 4, (y + shift) / 4) for x, y in points], fill=90)
    soft = mask.filter(ImageFilter.GaussianBlur(quarter * 0.012)).resize(canvas.size)
    canvas.paste((0, 0, 0), mask=soft)


def _draw_background(background: Background, side: int) -> Image.Image:
    base = GROUND_PAINTS[background.colour]
    other = _scaled(base, 1.45) if background.colour == "dark" else _scaled(base, 0.87)
    match background.pattern:
        case "plain":
            return Image.new("RGB", (side, side), base)
        case "shaded":
            blend = _slope(background.angle, side)
        case "grainy":
            blend = _grain(background.angle, side)
        case "striped":
            blend = _stripes(background, side)
        case "checked":
            blend = _checks(background, side)
        case "dotted":
            blend = _dots(background, side)
        case _:
            raise ValueError(f"unknown background pattern {background.pattern!r}")
    return Image.composite(Image.new("RGB", (side, side), other), Image.new("RGB", (side, side), base), blend)


def _slope(angle: float, side: int) -> Image.Image:
    """Return a mask that changes from one side to the other; 0 is the base colour, 255 the second colour."""
    x, y = _grid(side)
    slope = (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    return Image.fromarray(np.uint8(np.clip(0.5 + slope, 0, 1) * 255))


def _grain(angle: float, side: int) -> Image.Image:
    """Return a mask of soft irregular clouds, as on rough paper."""
    cells = np.random.default_rng(int(angle * 1e6)).integers(0, 160, (24, 24), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def _stripes(background: Background, side: int) -> Image.Image:
    x, y = _grid(side)
    along = x * math.cos(background.angle) + y * math.sin(background.angle)
    return Image.fromarray(np.uint8((along / background.period % 1 < 0.5) * 255))


def _checks(background: Background, side: int) -> Image.Image:
    x, y = _grid(side)
    odd = (np.floor(x / background.period) + np.floor(y / background.period)) % 2
    return Image.fromarray(np.uint8(odd * 255))


def _dots(background: Background, side: int) -> Image.Image:
    x, y = _grid(side)
    u = (x / background.period) % 1 - 0.5
    v = (y / background.period) % 1 - 0.5
    return Image.fromarray(np.uint8((u * u + v * v < 0.045) * 255))


@cache
def _grid(side: int) -> tuple[Pixels, Pixels]:
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(steps, steps)
    return x, y


def _with_noise(image: Image.Image, scene: Scene) -> Image.Image:
    if not scene.noise:
        return image
    noise = np.random.default_rng(scene.seed).normal(0, scene.noise, (image.height, image.width, 3))
    return Image.fromarray(np.uint8(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255)))


def _jittered(paint: Tint, rng: random.Random) -> Tint:
    red, green, blue = (max(0, min(255, round(level + rng.uniform(-14, 14)))) for level in paint)
    return red, green, blue


def _scaled(paint: Tint, factor: float) -> Tint:
    red, green, blue = (min(255, round(level * factor)) for level in paint)
    return red, green, blue
