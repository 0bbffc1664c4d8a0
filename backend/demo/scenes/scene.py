"""A small world of drawn scenes: the parts of a scene, the facts that are true in it, and a sampler with a seed.

A scene holds one to three groups of equal objects on a background. Lengths are fractions of the picture's side; x grows
to the right and y grows downwards. Every fact that a caption may state is true by a margin, so that people and the
checker agree on it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from backend.demo.scenes.shapes import Box, Point, enclosing, outline, outline_box, visible_fraction

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")
GROUNDS = ("white", "grey", "beige", "dark")
PATTERNS = ("plain", "shaded", "grainy", "striped", "checked", "dotted")
NAMED_PATTERNS = ("striped", "checked", "dotted")
POSITIONS = (
    "left",
    "right",
    "top",
    "bottom",
    "middle",
    "top left corner",
    "top right corner",
    "bottom left corner",
    "bottom right corner",
)
RELATIONS = ("above", "below", "left of", "right of", "in front of", "behind")
OPPOSITES = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
}
MAX_COUNT = 4
FRAME_MARGIN = 0.025
GROUP_GAP = 0.05
"""Groups that do not overlap are at least this far apart along an axis, or share at least as much of it."""
MIN_VISIBLE, MAX_VISIBLE = 0.66, 0.86
"""Smallest and largest visible share of an object that stands behind another."""

Overlap = Literal["in front of"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One drawn object of a group."""

    x: float
    y: float
    radius: float
    tilt: float
    """Clockwise, in radians."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One to four equal objects that stand together, as in 'two small blue squares'."""

    shape: str
    colour: str
    size: str
    items: tuple[Item, ...]

    @property
    def count(self) -> int:
        return len(self.items)

    @cached_property
    def outlines(self) -> list[list[Point]]:
        return [outline(self.shape, item.x, item.y, item.radius, item.tilt) for item in self.items]

    @cached_property
    def box(self) -> Box:
        return enclosing([outline_box(points) for points in self.outlines])


@dataclass(frozen=True, kw_only=True)
class Background:
    pattern: str
    colour: str
    angle: float
    """Direction of the shading or the stripes, in radians."""
    period: float
    """Width of one stripe, check or dot with its gap."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything a caption may speak of, and everything the picture is drawn from."""

    groups: tuple[Group, ...]
    """In drawing order: a later group covers an earlier one."""
    overlap: Overlap | None
    """Relation of the last group to the group before it; None if they do not overlap."""
    background: Background
    noise: float
    """Standard deviation of the pixel noise, in grey levels of 255."""
    has_shadows: bool
    seed: int
    """Fixes noise and tints, so that a scene always looks the same."""

    def holds_position(self, group: Group, position: str, margin: float = 0.0) -> bool:
        """Return True if the group's centre lies in the region that the position names.

        Args:
            group: one of this scene's groups.
            position: one of POSITIONS.
            margin: smallest distance of the centre from the region's edge. At 0 the position is just true.
        """
        return _POSITION_SLACK[position](*group.box.centre) >= margin

    def holds_relation(self, first: Group, relation: str, second: Group) -> bool:
        """Return True if 'first relation second' is true; the relation is one of RELATIONS."""
        if self.overlap and (first, second) == (self.groups[-1], self.groups[-2]):
            return relation == self.overlap
        if self.overlap and (first, second) == (self.groups[-2], self.groups[-1]):
            return relation == OPPOSITES[self.overlap]
        a, b = first.box, second.box
        match relation:
            case "above":
                return a.bottom <= b.top
            case "below":
                return a.top >= b.bottom
            case "left of":
                return a.right <= b.left
            case "right of":
                return a.left >= b.right
        return False


_POSITION_SLACK: dict[str, Callable[[float, float], float]] = {
    "left": lambda x, y: 0.45 - x,
    "right": lambda x, y: x - 0.55,
    "top": lambda x, y: 0.45 - y,
    "bottom": lambda x, y: y - 0.55,
    "middle": lambda x, y: 0.15 - max(abs(x - 0.5), abs(y - 0.5)),
    "top left corner": lambda x, y: 0.40 - max(x, y),
    "top right corner": lambda x, y: 0.40 - max(1 - x, y),
    "bottom left corner": lambda x, y: 0.40 - max(x, 1 - y),
    "bottom right corner": lambda x, y: 0.40 - max(1 - x, 1 - y),
}


def sample_scene(seed: int) -> Scene:
    """Return the scene of this seed; the same seed gives the same scene on every machine."""
    rng = random.Random(seed)
    while True:
        groups, overlap = _sample_groups(rng)
        if groups:
            break
    return Scene(
        groups=groups,
        overlap=overlap,
        background=_sample_background(rng, {group.colour for group in groups}),
        noise=rng.choice((0.0, rng.uniform(2, 8), rng.uniform(8, 14))),
        has_shadows=rng.random() < 0.5,
        seed=seed,
    )


def _sample_groups(rng: random.Random) -> tuple[tuple[Group, ...], Overlap | None]:
    """Return groups that do not touch each other; none if this attempt does not fit."""
    kinds = rng.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], 3)
    number = rng.choices((1, 2, 3), weights=(2, 6, 3))[0]
    overlap: Overlap | None = None
    placed: list[Group] = []
    if number > 1 and rng.random() < 0.15:
        pair = _sample_pair(rng, kinds[0], kinds[1])
        if pair is None:
            return (), None
        overlap = "in front of"
        placed.extend(pair)
    while len(placed) < number:
        group = _place_group(rng, kinds[len(placed)], placed)
        if group is None:
            return (), None
        placed.insert(0, group)
    return tuple(placed), overlap


def _place_group(rng: random.Random, kind: tuple[str, str], placed: list[Group]) -> Group | None:
    for _ in range(30):
        size = rng.choice(SIZES)
        count = rng.choices((1, 2, 3, 4), weights=(5, 3, 3, 3) if size == "small" else (7, 3, 1, 0))[0]
        radius = rng.uniform(0.055, 0.072) if size == "small" else rng.uniform(0.12, 0.155)
        group = _lay_out(rng, kind, size, _arrangement(rng, count, size), radius)
        if group and all(_stand_clear(group.box, other.box) for other in placed):
            return group
    return None


def _stand_clear(a: Box, b: Box) -> bool:
    """Return True if the boxes are apart and, on each axis, either clearly apart or clearly level."""
    gaps = (a.gap_x(b), a.gap_y(b))
    return max(gaps) >= GROUP_GAP and all(abs(gap) >= GROUP_GAP for gap in gaps)


def _arrangement(rng: random.Random, count: int, size: str) -> list[Point]:
    """Return the positions of a group's objects, in steps from one object to the next."""
    row = [(float(step), 0.0) for step in range(count)]
    column = [(0.0, float(step)) for step in range(count)]
    if count == 1:
        return row
    if count == 2:
        return rng.choice([row, column, [(0.0, 0.0), (0.8, 0.8)], [(0.8, 0.0), (0.0, 0.8)]])
    if count == 3:
        clump = rng.choice([[(0.5, 0.0), (0.0, 0.9), (1.0, 0.9)], [(0.0, 0.0), (1.0, 0.0), (0.5, 0.9)]])
        return rng.choice([row, column, clump, clump]) if size == "small" else clump
    return rng.choice([row, column, *[[(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]] * 2])


def _lay_out(rng: random.Random, kind: tuple[str, str], size: str, steps: list[Point], radius: float) -> Group | None:
    """Put the arrangement at a random place inside the frame, or return None if it is too large."""
    shape, colour = kind
    spacing = radius * rng.uniform(2.5, 2.8)
    items = [
        Item(
            x=u * spacing + rng.uniform(-0.06, 0.06) * radius,
            y=v * spacing + rng.uniform(-0.06, 0.06) * radius,
            radius=radius,
            tilt=rng.uniform(-0.2, 0.2),
        )
        for u, v in steps
    ]
    box = Group(shape=shape, colour=colour, size=size, items=tuple(items)).box
    room_x = 1 - 2 * FRAME_MARGIN - (box.right - box.left)
    room_y = 1 - 2 * FRAME_MARGIN - (box.bottom - box.top)
    if room_x < 0 or room_y < 0:
        return None
    dx = FRAME_MARGIN - box.left + rng.uniform(0, room_x)
    dy = FRAME_MARGIN - box.top + rng.uniform(0, room_y)
    moved = tuple(Item(x=item.x + dx, y=item.y + dy, radius=item.radius, tilt=item.tilt) for item in items)
    return Group(shape=shape, colour=colour, size=size, items=moved)


def _sample_pair(
    rng: random.Random, lower_kind: tuple[str, str], upper_kind: tuple[str, str]
) -> tuple[Group, Group] | None:
    """Return two single objects, the second drawn in front of the first."""
    if lower_kind[1] == upper_kind[1]:
        return None
    lower = _lay_out(rng, lower_kind, "large", [(0.0, 0.0)], rng.uniform(0.125, 0.155))
    if lower is None:
        return None
    for _ in range(20):
        upper = _put_over(rng, lower.items[0], upper_kind)
        if upper and MIN_VISIBLE <= visible_fraction(lower.outlines[0], upper.outlines[0]) <= MAX_VISIBLE:
            return lower, upper
    return None


def _put_over(rng: random.Random, lower: Item, kind: tuple[str, str]) -> Group | None:
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.7) * lower.radius
    item = Item(
        x=lower.x + distance * math.cos(angle),
        y=lower.y + distance * math.sin(angle),
        radius=rng.uniform(0.12, 0.15),
        tilt=rng.uniform(-0.2, 0.2),
    )
    group = Group(shape=kind[0], colour=kind[1], size="large", items=(item,))
    box = group.box
    fits = min(box.left, box.top, 1 - box.right, 1 - box.bottom) >= FRAME_MARGIN
    return group if fits else None


def _sample_background(rng: random.Random, colours: set[str]) -> Background:
    grounds = [ground for ground in GROUNDS if not (ground == "dark" and colours & {"black", "purple"})]
    return Background(
        pattern=rng.choices(PATTERNS, weights=(3, 2, 2, 2, 2, 2))[0],
        colour=rng.choice(grounds),
        angle=rng.uniform(0, 2 * math.pi),
        period=rng.uniform(0.1, 0.15),
    )
