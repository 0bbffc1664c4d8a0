import pytest

from backend.demo.scenes import Background, Group, Item, Scene, sample_scene
from backend.demo.scenes.scene import FRAME_MARGIN, GROUP_GAP, MAX_VISIBLE, MIN_VISIBLE, SIZES
from backend.demo.scenes.shapes import outline, visible_fraction

SAMPLE = [sample_scene(seed) for seed in range(300)]


def make_group(x: float, y: float, colour: str = "red", radius: float = 0.06) -> Group:
    size = SIZES[radius > 0.1]
    item = Item(x=x, y=y, radius=radius, tilt=0.0)
    return Group(shape="circle", colour=colour, size=size, items=(item,))


def make_scene(*groups: Group) -> Scene:
    ground = Background(pattern="plain", colour="white", angle=0.0, period=0.1)
    return Scene(groups=groups, overlap=None, background=ground, noise=0.0, has_shadows=False, seed=0)


def test_the_same_seed_gives_the_same_scene_and_another_seed_another_one() -> None:
    assert sample_scene(7) == sample_scene(7)
    assert sample_scene(7) != sample_scene(8)


def test_the_sampler_reaches_every_fact_of_the_world() -> None:
    groups = [group for scene in SAMPLE for group in scene.groups]

    assert {group.shape for group in groups} == {"circle", "square", "triangle", "star", "heart", "cross"}
    assert len({group.colour for group in groups}) == 8
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {group.size for group in groups} == {"small", "large"}
    assert {len(scene.groups) for scene in SAMPLE} == {1, 2, 3}
    assert {scene.overlap for scene in SAMPLE} == {None, "in front of"}
    assert len({(scene.background.colour, scene.background.pattern) for scene in SAMPLE}) == 4 * 6


def test_every_object_lies_within_the_frame() -> None:
    edges = [group.box for scene in SAMPLE for group in scene.groups]

    assert min(min(box.left, box.top) for box in edges) >= FRAME_MARGIN - 1e-9
    assert max(max(box.right, box.bottom) for box in edges) <= 1 - FRAME_MARGIN + 1e-9


def test_groups_of_a_scene_differ_in_shape_or_colour() -> None:
    for scene in SAMPLE:
        kinds = {(group.shape, group.colour) for group in scene.groups}

        assert len(kinds) == len(scene.groups)


def test_small_and_large_objects_are_clearly_apart() -> None:
    radii = {
        size: [item.radius for scene in SAMPLE for g in scene.groups if g.size == size for item in g.items]
        for size in SIZES
    }

    assert min(radii["large"]) > 1.6 * max(radii["small"])


def test_groups_stand_clear_of_each_other_unless_the_scene_says_that_they_overlap() -> None:
    for scene in SAMPLE:
        apart = [(a, b) for a in scene.groups for b in scene.groups if a is not b]
        if scene.overlap:
            apart = [pair for pair in apart if set(map(id, pair)) != set(map(id, scene.groups[-2:]))]

        assert all(max(a.box.gap_x(b.box), a.box.gap_y(b.box)) >= GROUP_GAP - 1e-9 for a, b in apart)


def test_a_covered_object_still_shows_most_of_itself() -> None:
    pairs = [scene.groups[-2:] for scene in SAMPLE if scene.overlap == "in front of"]

    shown = [visible_fraction(lower.outlines[0], upper.outlines[0]) for lower, upper in pairs]

    assert MIN_VISIBLE <= min(shown) <= max(shown) <= MAX_VISIBLE


def test_relations_follow_the_places() -> None:
    high, low = make_group(0.5, 0.2), make_group(0.5, 0.8, "blue")
    scene = make_scene(high, low)

    assert scene.holds_relation(high, "above", low)
    assert scene.holds_relation(low, "below", high)
    assert not scene.holds_relation(high, "below", low)
    assert not scene.holds_relation(high, "left of", low)
    assert not scene.holds_relation(high, "in front of", low)


@pytest.mark.parametrize(
    ("x", "y", "true"),
    [
        (0.2, 0.5, {"left"}),
        (0.8, 0.5, {"right"}),
        (0.5, 0.2, {"top"}),
        (0.5, 0.8, {"bottom"}),
        (0.5, 0.5, {"middle"}),
        (0.2, 0.2, {"left", "top", "top left corner"}),
        (0.8, 0.8, {"right", "bottom", "bottom right corner"}),
    ],
)
def test_positions_follow_the_place(x: float, y: float, true: set[str]) -> None:
    group = make_group(x, y)
    scene = make_scene(group)

    assert {position for position in POSITION_NAMES if scene.holds_position(group, position)} == true


POSITION_NAMES = (
    *("left", "right", "top", "bottom", "middle"),
    *("top left corner", "top right corner", "bottom left corner", "bottom right corner"),
)


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        outline("hexagon", 0.5, 0.5, 0.1, 0.0)
