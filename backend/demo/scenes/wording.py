"""Write captions of a scene in English: lower case, no full stop, several wordings of the same facts.

Every caption names every group. Some captions leave out sizes, and about half leave out the background. Positions and
relations are stated only where they are clearly true.
"""

import random
from collections.abc import Sequence
from functools import cmp_to_key
from itertools import permutations

from backend.demo.scenes.scene import NAMED_PATTERNS, POSITIONS, RELATIONS, Background, Group, Scene

NUMBER_WORDS = ("a", "two", "three", "four")
POSITION_PHRASES = {
    position: f"in the {position}" if "corner" in position or position == "middle" else f"on the {position}"
    for position in POSITIONS
} | {"top": "at the top", "bottom": "at the bottom"}
RELATION_PHRASES = {relation: relation for relation in RELATIONS} | {
    "left of": "to the left of",
    "right of": "to the right of",
}
PLAIN_MARGIN = 0.06
"""Captions state a position only if the group's centre is at least this far inside its region."""


def write_captions(scene: Scene, count: int, seed: int = 0) -> list[str]:
    """Return up to count different captions of the scene; the same seed gives the same captions."""
    rng = random.Random(f"captions {scene.seed} {seed}")
    captions: dict[str, None] = {}
    for _ in range(4 * count):
        captions[_write_caption(scene, rng)] = None
        if len(captions) == count:
            break
    return list(captions)


def _write_caption(scene: Scene, rng: random.Random) -> str:
    groups = _in_order_of_mention(scene, rng)
    wordings = {1: _single, 2: _pair, 3: _triple}[len(groups)](scene, groups, rng.random() < 0.8, rng)
    sentence = rng.choices([text for text, _ in wordings], weights=[weight for _, weight in wordings])[0]
    if rng.random() < 0.12:
        sentence = f"there {'is' if sentence.startswith(('a ', 'an ')) else 'are'} {sentence}"
    if rng.random() < 0.5:
        sentence = f"{sentence} on a {_background_words(scene.background, rng)} background"
    return sentence


def _in_order_of_mention(scene: Scene, rng: random.Random) -> list[Group]:
    """Return the groups in the usual order: first the group in front, else the larger group, else from left or top."""
    groups = list(scene.groups)
    if rng.random() < 0.15:
        rng.shuffle(groups)
        return groups
    overlapping = [groups.pop(), groups.pop()] if scene.overlap else []
    return overlapping + sorted(groups, key=cmp_to_key(_mention))


def _mention(a: Group, b: Group) -> int:
    """Return a number below zero if a is usually named before b."""
    if a.size != b.size:
        return -1 if a.size == "large" else 1
    (ax, ay), (bx, by) = a.box.centre, b.box.centre
    along = ax - bx if abs(ax - bx) > abs(ay - by) else ay - by
    return -1 if along < 0 else 1


Wordings = list[tuple[str, float]]
"""Sentences, each with its weight in the random choice."""


def _single(scene: Scene, groups: Sequence[Group], sized: bool, rng: random.Random) -> Wordings:
    (group,) = groups
    noun = _noun_phrase(group, sized)
    positions = _plain_positions(scene, group)
    return [(noun, 1.0), *((f"{noun} {_at(position)}", 3.0 / len(positions)) for position in positions)]


def _pair(scene: Scene, groups: Sequence[Group], sized: bool, rng: random.Random) -> Wordings:
    a, b = groups
    first, second = _noun_phrase(a, sized), _noun_phrase(b, sized)
    wordings = [(f"{first} and {second}", 0.6)]
    related = _related(scene, a, b, sized, rng)
    if related:
        wordings.append((related, 4.0))
    back = _relation(scene, b, a, rng)
    if back:
        pronoun = "it" if a.count == 1 else "them"
        wordings.append((f"{first} with {second} {RELATION_PHRASES[back]} {pronoun}", 1.5))
    placed = _placed_apart(scene, groups, sized, rng)
    if placed:
        wordings.append((f"{placed[0]} and {placed[1]}", 2.0))
    return wordings


def _triple(scene: Scene, groups: Sequence[Group], sized: bool, rng: random.Random) -> Wordings:
    a, b, c = groups
    first, second, third = (_noun_phrase(group, sized) for group in groups)
    wordings = [(f"{first}, {second} and {third}", 0.8)]
    shared = [
        relation
        for relation in ("above", "below", "left of", "right of")
        if scene.holds_relation(a, relation, b) and scene.holds_relation(a, relation, c)
    ]
    wordings += [(f"{first} {RELATION_PHRASES[relation]} {second} and {third}", 1.0) for relation in shared]
    related = _related(scene, a, b, sized, rng)
    positions = _plain_positions(scene, c)
    if related and positions:
        wordings.append((f"{related}, with {third} {_at(rng.choice(positions))}", 3.0))
    placed = _placed_apart(scene, groups, sized, rng)
    if placed:
        wordings.append((f"{placed[0]}, {placed[1]} and {placed[2]}", 1.5))
    return wordings


def _related(scene: Scene, a: Group, b: Group, sized: bool, rng: random.Random) -> str | None:
    relation = _relation(scene, a, b, rng)
    if relation is None:
        return None
    return f"{_noun_phrase(a, sized)} {RELATION_PHRASES[relation]} {_noun_phrase(b, sized)}"


def _relation(scene: Scene, a: Group, b: Group, rng: random.Random) -> str | None:
    """Return a true relation; of two, usually the one in whose direction the groups are further apart."""
    true = [r for r in RELATIONS if scene.holds_relation(a, r, b)]
    if len(true) < 2:
        return true[0] if true else None
    vertical, horizontal = true
    wider_is_vertical = a.box.gap_y(b.box) > a.box.gap_x(b.box)
    return vertical if wider_is_vertical == (rng.random() < 0.85) else horizontal


def _placed_apart(scene: Scene, groups: Sequence[Group], sized: bool, rng: random.Random) -> list[str] | None:
    """Return each group with a position of its own, along one axis if possible; None if two would share it."""
    choices = [_plain_positions(scene, group) for group in groups]
    for axis in rng.sample([("left", "middle", "right"), ("top", "middle", "bottom")], 2):
        for positions in permutations(axis, len(groups)):
            if "middle" in positions and len(groups) == 2:
                continue
            if all(position in plain for position, plain in zip(positions, choices, strict=True)):
                return _placed(groups, positions, sized)
    picked = [rng.choice(plain) for plain in choices if plain]
    return _placed(groups, picked, sized) if len(set(picked)) == len(groups) else None


def _placed(groups: Sequence[Group], positions: Sequence[str], sized: bool) -> list[str]:
    return [f"{_noun_phrase(group, sized)} {_at(position)}" for group, position in zip(groups, positions, strict=True)]


def _plain_positions(scene: Scene, group: Group) -> list[str]:
    return [position for position in POSITIONS if scene.holds_position(group, position, PLAIN_MARGIN)]


def _at(position: str) -> str:
    return POSITION_PHRASES[position]


def _noun_phrase(group: Group, sized: bool) -> str:
    adjectives = f"{group.size} {group.colour}" if sized else group.colour
    number = NUMBER_WORDS[group.count - 1]
    if number == "a" and adjectives[0] in "aeiou":
        number = "an"
    return f"{number} {adjectives} {plural(group.shape) if group.count > 1 else group.shape}"


def plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _background_words(background: Background, rng: random.Random) -> str:
    if background.pattern not in NAMED_PATTERNS:
        return background.colour
    both = f"{background.pattern} {background.colour}"
    return rng.choice([background.pattern, background.colour, both, both])
