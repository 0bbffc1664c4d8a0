"""Streams of corrections of a project, divided into steps, with the pictures that measure their effect."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.learning.worlds import Picture, World


@dataclass(frozen=True, kw_only=True)
class Test:
    """Suggestions for these pictures are measured against the captions that annotators would write."""

    name: str
    pictures: tuple[Picture, ...]
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The corrections before a retraining."""

    corrections: tuple[tuple[Picture, str], ...]
    new: Test
    """Pictures on which the step should improve the suggestions."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The corrections of one project."""

    name: str
    steps: tuple[Step, ...]
    old: Test
    """Pictures of the kind that the base knew before any correction."""


def make_streams(world: World, *, each: int, chinese: Mapping[str, tuple[str, ...]] | None = None) -> list[Stream]:
    """Return the streams of a world; the Chinese stream only if there are Chinese captions.

    Args:
        world: pictures.
        each: corrections of one step.
        chinese: image key to captions in Chinese.
    """
    streams = [topics(world, each), house_style(world, each), steady(world, each), contradiction(world, each)]
    return [*streams, chinese_after_english(world, each, chinese)] if chinese else streams


def topics(world: World, each: int) -> Stream:
    """Return a stream of five topics, one after the other, that the base has never seen."""
    steps = [
        Step(corrections=_first_captions(topic.train[:each]), new=_test(topic.name, topic.test))
        for topic in world.topics
    ]
    return Stream(name="five topics", steps=tuple(steps), old=_old(world))


def house_style(world: World, each: int) -> Stream:
    """Return a stream in which annotators reword every caption by the same rule."""
    new = _test("house style", world.old.test, restated)
    steps = [
        Step(corrections=tuple((picture, restated(caption)) for picture, caption in some), new=new)
        for some in _parts(_first_captions(world.old.train), each, 3)
    ]
    return Stream(name="house style", steps=tuple(steps), old=_old(world))


def steady(world: World, each: int) -> Stream:
    """Return a stream in which an annotator corrects mixed pictures of all topics, 20 at a time."""
    mixed = [picture for topic in world.topics for picture in topic.train]
    random.Random(0).shuffle(mixed)
    tested = tuple(picture for topic in world.topics for picture in topic.test)
    new = _test("all topics", tested)
    steps = [Step(corrections=some, new=new) for some in _parts(_first_captions(mixed), 20, each // 5)]
    return Stream(name="20 by 20", steps=tuple(steps), old=_old(world))


def contradiction(world: World, each: int) -> Stream:
    """Return a stream that captions the same pictures again in other words; the last captions count."""
    pictures = world.topics[0].train[:each]
    tested = world.topics[0].test
    first = tuple((picture, restated(picture.captions[0])) for picture in pictures)
    return Stream(
        name="contradiction",
        steps=(
            Step(corrections=first, new=_test("restated", tested, restated)),
            Step(corrections=_first_captions(pictures), new=_test("taken back", tested)),
        ),
        old=_old(world),
    )


def chinese_after_english(world: World, each: int, chinese: Mapping[str, tuple[str, ...]]) -> Stream:
    """Return a stream in which the project changes its language."""
    captioned = [picture for picture in world.old.train if picture.key in chinese]
    tested = tuple(picture for picture in world.old.test if picture.key in chinese)
    new = Test(name="Chinese", pictures=tested, references=tuple(chinese[picture.key] for picture in tested))
    steps = [
        Step(corrections=some, new=new)
        for some in _parts(tuple((picture, chinese[picture.key][0]) for picture in captioned), each, 4)
    ]
    return Stream(name="Chinese after English", steps=tuple(steps), old=_old(world))


_STYLE = {"man": "guy", "woman": "lady", "dog": "puppy", "dogs": "puppies", "circle": "ball", "circles": "balls"}


def restated(caption: str) -> str:
    """Return a caption in the team's style: other nouns, words in front, no full stop."""
    reworded = re.sub(r"\w+", lambda word: _STYLE.get(word[0], word[0]), caption[:1].lower() + caption[1:])
    return f"a picture of {reworded.rstrip('.')}"


def _old(world: World) -> Test:
    return _test("known before", world.old.test)


def _test(name: str, pictures: Sequence[Picture], wording: Callable[[str], str] = str) -> Test:
    references = tuple(tuple(wording(caption) for caption in picture.captions) for picture in pictures)
    return Test(name=name, pictures=tuple(pictures), references=references)


def _first_captions(pictures: Sequence[Picture]) -> tuple[tuple[Picture, str], ...]:
    """Return each picture with its first caption."""
    return tuple((picture, picture.captions[0]) for picture in pictures)


def _parts(corrections: Sequence[tuple[Picture, str]], size: int, count: int) -> list[tuple[tuple[Picture, str], ...]]:
    parts = [tuple(corrections[start : start + size]) for start in range(0, len(corrections), size)]
    return [part for part in parts if len(part) == size][:count]
