"""Faults of decoding: marks by which a reader sees that a program wrote a caption and went wrong.

A likely caption can still be a bad one. Beam search may prefer a loop to every caption that a person would write
(Holtzman et al. 2020, https://arxiv.org/abs/1904.09751). No loss shows that, because it only reads captions of people.

Which words may be repeated, and which words never stand at the end, is learned from captions that people wrote, in any
language. Only a few English words are known before.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from model.tokenizer import cut, is_cjk

Words = tuple[str, ...]

LOOP = "loop"
ENDLESS = "no end"
BROKEN_END = "broken end"
REPEATED = "repeated words"
EMPTY = "no words"

INNER_LIMIT = 1 / 30
"""A word that ends a smaller share of the captions that it is in is not expected at the end."""
KNOWN_INNER = frozenset(
    ("a", "an", "the", "and", "or", "of", "with", "from", "at", "into", "is", "are", "his", "her", "its", "their", "to")
) | {",", "，", "、"}
"""Words and signs that end no caption, as far as people of the project agree. Others need thirty captions each."""
TIMES = 3
"""A caption that has a word or a pair of words so often repeats itself, unless people write so."""
USUAL = 0.002
"""Share of people's captions that makes a repetition usual; two captions are the fewest."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Habits of people's captions that a caption is compared with."""

    inner: frozenset[str] = frozenset()
    """Words and signs that stand in many captions and at the end of hardly any, such as "a", "with" and ","."""
    repeated: frozenset[Words] = frozenset()
    """Words and pairs of words that people write `TIMES` times in a caption, such as "the"."""

    @classmethod
    def of(cls, captions: Iterable[Words]) -> "Usage":
        """Return the habits of these captions."""
        written = [words for words in captions if words]
        within = Counter(word for words in written for word in set(words))
        ends = Counter(end for words in written for end in _ends(words))
        repeated = Counter(part for words in written for part in _often(words))
        fewest = max(2.0, USUAL * len(written))
        return cls(
            # One end more than counted, because a word that is in few captions may end none by chance.
            inner=frozenset(word for word, count in within.items() if (ends[word] + 1) / count <= INNER_LIMIT)
            | frozenset(word for word in KNOWN_INNER if not ends[word]),
            repeated=frozenset(part for part, count in repeated.items() if count >= fewest),
        )


def caption_words(caption: str) -> Words:
    """Return the words and signs of a caption without case. Each Chinese or Japanese character is a word."""
    return tuple(piece.casefold() for piece in cut(caption) if piece and not piece.isspace())


def caption_faults(words: Words, usage: Usage, *, is_cut: bool = False) -> tuple[str, ...]:
    """Return the names of the faults of a caption, none for a caption as people write it.

    Args:
        words: of the caption, see `caption_words`.
        usage: habits of people's captions of the same project.
        is_cut: the caption had no end when the search stopped.
    """
    if not any(map(_is_word, words)):
        return (EMPTY,)
    found = {
        LOOP: _has_loop(words),
        REPEATED: _repeats(words, usage) or _names_twice(words, usage),
        BROKEN_END: any(end in usage.inner for end in _ends(words)),
        ENDLESS: is_cut,
    }
    return tuple(name for name, is_found in found.items() if is_found)


def _has_loop(words: Words) -> bool:
    """Find a word that follows itself, or two or more words that follow themselves."""
    # In Chinese a character is often doubled, and the same two characters may be a whole noun.
    if any(left == right and _is_word(left) and not is_cjk(left) for left, right in pairwise(words)):
        return True
    return any(_follows_itself(words, length, gap=0) for length in range(2, len(words) // 2 + 1))


def _repeats(words: Words, usage: Usage) -> bool:
    """Find what a caption has too often: a word with a meaning, or a pair with one."""
    unusual = _often(words) - usage.repeated
    return any(not usage.inner.issuperset(part) for part in unusual)


def _names_twice(words: Words, usage: Usage) -> bool:
    """Find the same things on both sides of a word such as "and": "a man and a man"."""
    return any(
        words[start + length] in usage.inner and words[start + length - 1] not in usage.inner
        for length in range(2, (len(words) - 1) // 2 + 1)
        for start in _follows_itself(words, length, gap=1)
    )


def _follows_itself(words: Words, length: int, gap: int) -> list[int]:
    """Return where so many words come again after a gap of some words."""
    again = length + gap
    return [
        start
        for start in range(len(words) - again - length + 1)
        if words[start : start + length] == words[start + again : start + again + length]
        and any(map(_is_word, words[start : start + length]))
    ]


def _often(words: Words) -> set[Words]:
    """Return the words and pairs of words that the caption has `TIMES` times or more."""
    parts: Counter[Words] = Counter((word,) for word in words if _is_word(word) and not is_cjk(word))
    parts.update(pair for pair in pairwise(words) if any(map(_is_word, pair)))
    return {part for part, count in parts.items() if count >= TIMES}


def _ends(words: Words) -> Sequence[str]:
    """Return the last word or sign, and the last word before closing signs."""
    last = [word for word in words if _is_word(word)][-1:]
    return tuple({words[-1], *last})


def _is_word(piece: str) -> bool:
    return any(map(str.isalnum, piece))
