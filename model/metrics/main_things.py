"""The main things of an English caption: what it is about, and what that does.

A caption is called right if both are in one of people's captions of the image. That is a rule of thumb without grammar:
what a caption is about is the last noun before its first verb or preposition, and what that does is its first verb.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.metrics.words import metric_words

ARTICLES = frozenset(("a", "an", "the", "some", "this", "that", "these", "those", "there"))
BEING = frozenset(("is", "are", "was", "were", "be", "has", "have", "there"))
BREAKS = BEING | frozenset(
    (
        *("in", "on", "at", "of", "with", "by", "near", "over", "under", "through", "into", "onto", "from"),
        *("to", "for", "as", "while", "and", "that", "who", "which", "up", "down", "behind", "beside"),
        *("between", "across", "along", "around", "next", "off", "out", "against", "above", "below", "during"),
        *("inside", "outside", "past", "without", "being", "after", "before", "about", "where", "or", "but"),
        *("holds", "wears", "sits", "stands", "looks"),
    )
)
"""Words that end the name of a thing."""
PARTS = frozenset(
    (
        *("group", "couple", "pair", "bunch", "number", "lot", "row", "herd", "flock", "piece", "slice"),
        *("bowl", "plate", "cup", "glass", "view", "picture", "photo", "image", "close", "front", "side"),
        *("top", "variety", "crowd"),
    )
)
"""Nouns before "of" that say how much there is and not what."""
THINGS_IN_ING = frozenset(
    (
        *("building", "string", "wedding", "clothing", "ceiling", "ring", "wing", "king", "thing", "evening"),
        *("morning", "painting", "spring", "swing", "railing", "awning", "parking", "dining", "living"),
        *("swimming", "something"),
    )
)
VERBS = frozenset(
    (
        *("sit", "stand", "run", "jump", "walk", "play", "ride", "look", "hold", "wear", "swim", "climb"),
        *("fly", "catch", "throw", "eat", "drink", "lie", "lay", "lean", "pose", "smile", "talk", "watch"),
        *("cross", "chase", "fight", "carry", "pull", "push", "perform", "ski", "surf", "skateboard", "dance"),
        *("sing", "read", "sleep", "rest", "kick", "hit", "swing", "slide", "race", "drive", "park", "graze"),
        *("fill", "cover", "lead", "leap", "dig"),
    )
)
SHORTEST_STEM = 3


@dataclass(frozen=True, kw_only=True)
class MainThings:
    """Stems of the words."""

    thing: str
    action: str | None
    """None where the caption has no verb."""


def main_things(caption: str) -> MainThings | None:
    """Return what a caption is about; None if it names nothing."""
    words = metric_words(caption)
    thing, at = _thing(words, 0)
    while thing in PARTS:
        start = at
        while start < len(words) and words[start] in {"of", "up"}:
            start += 1
        inner, after = _thing(words, start)
        if start == at or inner is None:
            break
        thing, at = inner, after
    if thing is None:
        return None
    action = next((word for word in words[at:] if _is_verb(word)), None)
    return MainThings(thing=stem(thing), action=None if action is None else stem(action))


def are_main_things_right(caption: str, references: Sequence[str]) -> bool:
    """Return True if what the caption is about, and what that does, are in one of the references."""
    things = main_things(caption)
    if things is None:
        return False
    wanted = {things.thing, things.action} - {None}
    return any(wanted <= {stem(word) for word in metric_words(reference)} for reference in references)


def stem(word: str) -> str:
    """Return a word without its English ending: "sits", "sitting" and "sit" have one stem."""
    if word in THINGS_IN_ING:
        return word
    word = _without_ies(word)
    for ending in ("ing", "es", "ed", "s"):
        left = word.removesuffix(ending)
        if left != word and len(left) >= SHORTEST_STEM and not (ending == "s" and left.endswith("s")):
            is_doubled = len(left) > SHORTEST_STEM and left[-1] == left[-2] and ending in {"ing", "ed"}
            return _without_vowel(left[:-1] if is_doubled else left)
    return _without_vowel(word)


def _without_ies(word: str) -> str:
    """Return "fly" for "flies"."""
    return word[:-3] + "y" if word.endswith("ies") and len(word) > SHORTEST_STEM + 1 else word


def _without_vowel(word: str) -> str:
    return word.rstrip("eiy") if len(word) > SHORTEST_STEM else word


def _thing(words: Sequence[str], start: int) -> tuple[str | None, int]:
    """Return the last word of the name that begins here, and where its end is."""
    at = start
    while at < len(words) and words[at] in ARTICLES | BEING:
        at += 1
    first = at
    while at < len(words) and words[at] not in BREAKS and not (at > first and _is_verb(words[at])):
        at += 1
    return (words[at - 1], at) if at > first else (None, at)


def _is_verb(word: str) -> bool:
    if word.endswith("ing") and word not in THINGS_IN_ING:
        return True
    forms = (_without_ies(word), word.removesuffix("s"), word.removesuffix("es"))
    return any(form in VERBS for form in forms)
