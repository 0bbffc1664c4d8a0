"""The outlines of the six shapes, and the share of an object that another one hides.

Lengths are fractions of the picture's side; x grows to the right and y grows downwards.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Box:
    """An upright rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> Point:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def gap_x(self, other: "Box") -> float:
        """Return the free width between the two boxes; negative by as much as they overlap."""
        return max(self.left - other.right, other.left - self.right)

    def gap_y(self, other: "Box") -> float:
        """Return the free height between the two boxes; negative by as much as they overlap."""
        return max(self.top - other.bottom, other.top - self.bottom)


def enclosing(boxes: "list[Box]") -> Box:
    return Box(
        left=min(box.left for box in boxes),
        top=min(box.top for box in boxes),
        right=max(box.right for box in boxes),
        bottom=max(box.bottom for box in boxes),
    )


def outline(shape: str, x: float, y: float, radius: float, tilt: float) -> list[Point]:
    """Return the corners of the shape around (x, y), turned by tilt radians."""
    cos, sin = math.cos(tilt) * radius, math.sin(tilt) * radius
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in _unit_outline(shape)]


def outline_box(points: list[Point]) -> Box:
    return Box(
        left=min(x for x, _ in points),
        top=min(y for _, y in points),
        right=max(x for x, _ in points),
        bottom=max(y for _, y in points),
    )


def visible_fraction(hidden: list[Point], covering: list[Point]) -> float:
    """Return the share of the hidden outline's area that the covering outline leaves visible, 0 to 1."""
    below, above = _mask(hidden), _mask(covering)
    return float((below & ~above).sum() / max(1, below.sum()))


def _mask(points: list[Point], side: int = 128) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    image = Image.new("1", (side, side))
    ImageDraw.Draw(image).polygon([(x * side, y * side) for x, y in points], fill=1)
    return np.asarray(image)


@cache
def _unit_outline(shape: str) -> tuple[Point, ...]:
    """Return the shape at radius 1, scaled so that all six look equally large."""
    match shape:
        case "circle":
            return _polar(1.0, [1.0] * 72)
        case "square":
            return _polar(1.27, [1.0] * 4, turn=math.pi / 4)
        case "triangle":
            return tuple((u, v + 0.22) for u, v in _polar(1.36, [1.0] * 3))
        case "star":
            return _polar(1.32, [1.0, 0.46] * 5)
        case "cross":
            return _cross(arm=1.14, half_width=0.4)
        case "heart":
            return _heart()
    raise ValueError(f"shape must be one of the six of this world, got {shape!r}")


def _polar(radius: float, spokes: list[float], turn: float = 0.0) -> tuple[Point, ...]:
    """Return corners at equal angles; the first one is at the top."""
    angles = [turn + 2 * math.pi * step / len(spokes) for step in range(len(spokes))]
    return tuple(
        (radius * spoke * math.sin(angle), -radius * spoke * math.cos(angle))
        for spoke, angle in zip(spokes, angles, strict=True)
    )


def _cross(arm: float, half_width: float) -> tuple[Point, ...]:
    a, w = arm, half_width
    return ((-w, -a), (w, -a), (w, -w), (a, -w), (a, w), (w, w), (w, a), (-w, a), (-w, w), (-a, w), (-a, -w), (-w, -w))


def _heart() -> tuple[Point, ...]:
    steps = [2 * math.pi * step / 60 for step in range(60)]
    return tuple(
        (
            16 * math.sin(t) ** 3 / 14.2,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 14.2,
        )
        for t in steps
    )
