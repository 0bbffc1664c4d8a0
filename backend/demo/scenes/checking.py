"""Read the claims of a caption about a scene, and name every claim that is not true.

    caption    = [ "there is" | "there are" ] clause { ( "," | "and" | "with" | ", with" ) clause } [ background ]
    clause     = objects [ position ] [ relation objects [ "and" objects ] | relation ( "it" | "them" ) ]
    objects    = number [ size ] colour shape
    background = "on a" [ pattern ] [ colour ] "background"

Only the claims matter: every wording that this grammar can read is allowed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from backend.demo.scenes.scene import COLOURS, GROUNDS, NAMED_PATTERNS, SHAPES, SIZES, Background, Group, Scene
from backend.demo.scenes.wording import NUMBER_WORDS, POSITION_PHRASES, RELATION_PHRASES, plural

SHAPE_OF_WORD = {shape: shape for shape in SHAPES} | {plural(shape): shape for shape in SHAPES}
COUNT_OF_WORD = {"an": 1, "one": 1} | {word: count for count, word in enumerate(NUMBER_WORDS, start=1)}


class UnreadableCaptionError(ValueError):
    """The grammar cannot read the caption."""


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One noun phrase, which describes a group."""

    count: int
    size: str | None
    colour: str
    shape: str


@dataclass(kw_only=True)
class Claims:
    """Everything a caption states. Other fields name a mention by its index."""

    mentions: list[Mention] = field(default_factory=list)
    positions: list[tuple[int, str]] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    pattern: str | None = None
    ground: str | None = None


def wrong_facts(caption: str, scene: Scene) -> list[str]:
    """Return one line for each claim of the caption that is not true of the scene; none if all are.

    Each mention stands for a different group, and the reading with the fewest wrong facts counts.
    A caption that the grammar cannot read, such as an empty one, counts as one wrong fact.
    """
    try:
        claims = parse_claims(caption)
    except UnreadableCaptionError as error:
        return [str(error)]
    readings = (_wrong_in_reading(claims, groups, scene) for groups in _readings(claims, scene))
    return min(readings, key=len) + _wrong_background(claims, scene.background)


def parse_claims(caption: str) -> Claims:
    """Read a caption; raises UnreadableCaptionError, which names the first part that cannot be read."""
    return _Reader(caption).read()


def _readings(claims: Claims, scene: Scene) -> Iterator[tuple[Group | None, ...]]:
    """Yield every way to give each mention a group of its own; None where there are too few groups."""
    missing = max(0, len(claims.mentions) - len(scene.groups))
    return permutations([*scene.groups, *[None] * missing], len(claims.mentions))


def _wrong_in_reading(claims: Claims, groups: Sequence[Group | None], scene: Scene) -> list[str]:
    wrong = []
    for mention, group in zip(claims.mentions, groups, strict=True):
        wrong += _wrong_mention(mention, group)
    for index, position in claims.positions:
        group = groups[index]
        if group and not scene.holds_position(group, position):
            wrong.append(f"position: the {mention_name(claims, index)} is not {POSITION_PHRASES[position]}")
    for first, relation, second in claims.relations:
        a, b = groups[first], groups[second]
        if a and b and not scene.holds_relation(a, relation, b):
            names = f"{mention_name(claims, first)} is not {relation} the {mention_name(claims, second)}"
            wrong.append(f"relation: the {names}")
    return wrong


def _wrong_mention(mention: Mention, group: Group | None) -> list[str]:
    if group is None:
        return [f"object: there is no further {mention.colour} {mention.shape}"]
    claimed = {"count": mention.count, "size": mention.size, "colour": mention.colour, "shape": mention.shape}
    return [
        f"{fact}: said {value}, but it is {getattr(group, fact)}"
        for fact, value in claimed.items()
        if value is not None and value != getattr(group, fact)
    ]


def _wrong_background(claims: Claims, background: Background) -> list[str]:
    wrong = []
    if claims.pattern and claims.pattern != background.pattern:
        wrong.append(f"background: said {claims.pattern}, but it is {background.pattern}")
    if claims.ground and claims.ground != background.colour:
        wrong.append(f"background: said {claims.ground}, but it is {background.colour}")
    return wrong


def mention_name(claims: Claims, index: int) -> str:
    mention = claims.mentions[index]
    return f"{mention.colour} {mention.shape}"


def _phrases(phrases: dict[str, str]) -> str:
    return "|".join(sorted(phrases.values(), key=len, reverse=True))


_OBJECTS = re.compile(
    rf"({'|'.join(COUNT_OF_WORD)}) (?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPE_OF_WORD)})\b"
)
_BACKGROUND = re.compile(rf"on a (?:({'|'.join(NAMED_PATTERNS)}) ?)?({'|'.join(GROUNDS)})? ?background$")
_POSITION = re.compile(rf"({_phrases(POSITION_PHRASES)})\b(?! of\b)")
_RELATION = re.compile(rf"({_phrases(RELATION_PHRASES)})\b")
_PRONOUN = re.compile(r"(it|them)\b")
_OPENING = re.compile(r"there (is|are)\b")
_JOINT = re.compile(r", with\b|,|and\b|with\b")
_POSITION_OF = {phrase: position for position, phrase in POSITION_PHRASES.items()}
_RELATION_OF = {phrase: relation for relation, phrase in RELATION_PHRASES.items()}


class _Reader:
    """Reads a caption from left to right, one phrase at a time."""

    def __init__(self, caption: str) -> None:
        self.rest = caption
        self.claims = Claims()

    def read(self) -> Claims:
        opening = self._take(_OPENING)
        subject = self._clause(None)
        if opening and (opening[1] == "is") != (self.claims.mentions[0].count == 1):
            raise self._unreadable()
        while self._take(_JOINT):
            subject = self._clause(subject)
        background = self._take(_BACKGROUND)
        if background:
            self.claims.pattern, self.claims.ground = background[1], background[2]
            if not (background[1] or background[2]):
                raise self._unreadable()
        if self.rest:
            raise self._unreadable()
        return self.claims

    def _clause(self, antecedent: int | None) -> int:
        """Read one clause and return its subject; a pronoun in it stands for the antecedent."""
        subject = self._objects()
        if position := self._take(_POSITION):
            self.claims.positions.append((subject, _POSITION_OF[position[1]]))
        if relation := self._take(_RELATION):
            self._relate(subject, _RELATION_OF[relation[1]], antecedent)
        return subject

    def _relate(self, subject: int, relation: str, antecedent: int | None) -> None:
        if pronoun := self._take(_PRONOUN):
            if antecedent is None or (pronoun[1] == "it") != (self.claims.mentions[antecedent].count == 1):
                raise self._unreadable()
            self.claims.relations.append((subject, relation, antecedent))
            return
        self.claims.relations.append((subject, relation, self._objects()))
        before = self.rest
        if self._take(re.compile(r"and\b")):
            further = self._objects()
            if _POSITION.match(self.rest) or _RELATION.match(self.rest):
                # 'a above b and c on the right': c opens a clause of its own.
                self.claims.mentions.pop()
                self.rest = before
            else:
                self.claims.relations.append((subject, relation, further))

    def _objects(self) -> int:
        objects = self._take(_OBJECTS)
        if objects is None:
            raise self._unreadable()
        number, size, colour, word = objects.groups()
        count, shape = COUNT_OF_WORD[number], SHAPE_OF_WORD[word]
        is_plural = word != shape
        needs_an = (size or colour)[0] in "aeiou"
        if is_plural != (count > 1) or (number in {"a", "an"} and (number == "an") != needs_an):
            raise self._unreadable()
        self.claims.mentions.append(Mention(count=count, size=size, colour=colour, shape=shape))
        return len(self.claims.mentions) - 1

    def _take(self, phrase: re.Pattern[str]) -> re.Match[str] | None:
        """Take the phrase from the beginning of the rest, if the rest begins with it."""
        match = phrase.match(self.rest)
        if match:
            self.rest = self.rest[match.end() :].removeprefix(" ")
        return match

    def _unreadable(self) -> UnreadableCaptionError:
        return UnreadableCaptionError(f"wording: not a sentence of this world, at {self.rest!r}")
