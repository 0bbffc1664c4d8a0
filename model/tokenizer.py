"""A lossless tokenizer: words of a vocabulary, and bytes for everything else.

Decoding returns exactly the text that was encoded, so no correction is out of vocabulary.

A text is cut into pieces. A piece is a Chinese, Japanese or Korean (CJK) character, a run of other word characters, a
run of white space, or any other character. A piece of the vocabulary is one id; any other piece is `SPELL` and its
UTF-8 bytes. Usually there is one space between two pieces, and none between two CJK characters. Only exceptions get
ids: `GLUE` where the usual space is missing, and spelled white space for anything else.

    ids:  0 <pad>   1 <start>   2 <end>   3 <glue>   4 <spell>   5..260 bytes 0..255   261.. words
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.errors import BundleError

PAD, START, END, GLUE, SPELL = range(5)
FIRST_BYTE = 5
FIRST_WORD = FIRST_BYTE + 256
_SPECIAL = ("<pad>", "<start>", "<end>", "<glue>", "<spell>")

_CJK = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3000-\u30ff\u3100-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_PIECE = re.compile(rf"\s+|[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")
_IS_CJK = re.compile(f"[{_CJK}]")


@dataclass(frozen=True)
class Tokenizer:
    """Converts captions to token ids and back."""

    words: tuple[str, ...]
    """Pieces that have an id, in the order of their ids. An id never changes."""
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {word: number for number, word in enumerate(self.words, start=FIRST_WORD)}
        if len(ids) != len(self.words):
            raise BundleError(f"a vocabulary must name each word once, got {_repeated(self.words)!r} again")
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 2) -> Self:
        """Return a vocabulary of the pieces that occur at least `min_count` times in `captions`."""
        return cls(()).extended(captions, min_count)

    def extended(self, captions: Iterable[str], min_count: int = 2) -> Self:
        """Return this vocabulary plus the new pieces of `captions`, most frequent first. Existing ids stay."""
        counts = Counter(piece for caption in captions for piece in pieces(caption) if not piece.isspace())
        new = [word for word, count in counts.items() if count >= min_count and word not in self._ids]
        return type(self)(self.words + tuple(sorted(new, key=lambda word: (-counts[word], word))))

    @property
    def size(self) -> int:
        """Number of token ids; valid ids are 0 .. size - 1."""
        return FIRST_WORD + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without `START` and `END`."""
        return [token_id for piece in cut(text) for token_id in self._piece_ids(piece)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without `PAD`, `START` and `END`. Broken UTF-8 becomes U+FFFD."""
        return joined(self._decoded_pieces(ids))

    def token(self, token_id: int) -> str:
        """Return a readable form of one id: the word, `<0x41>` for a byte, `<glue>` and the like."""
        if token_id < FIRST_BYTE:
            return _SPECIAL[token_id]
        if token_id < FIRST_WORD:
            return f"<0x{token_id - FIRST_BYTE:02X}>"
        return self.words[token_id - FIRST_WORD]

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as plain JSON values."""
        return {"words": list(self.words)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the tokenizer that `to_json` described; raises BundleError for anything else."""
        words = fields.get("words") if isinstance(fields, dict) else None
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise BundleError('a vocabulary must be {"words": [list of non-empty texts]}')
        return cls(tuple(words))

    def _piece_ids(self, piece: str) -> list[int]:
        if not piece:
            return [GLUE]
        if piece in self._ids:
            return [self._ids[piece]]
        return [SPELL, *(FIRST_BYTE + byte for byte in piece.encode(errors="replace"))]

    def _decoded_pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of each piece, and "" for `GLUE`."""
        spelled = bytearray()
        for token_id in [*ids, END]:
            if FIRST_BYTE <= token_id < FIRST_WORD:
                spelled.append(token_id - FIRST_BYTE)
                continue
            if spelled:
                yield spelled.decode(errors="replace")
                spelled.clear()
            if token_id == GLUE:
                yield ""
            elif token_id >= FIRST_WORD:
                yield self.words[token_id - FIRST_WORD]


def caption_tokens(tokenizer: Tokenizer, caption: str, *, spelled: bool = False) -> list[int]:
    """Return the token ids of a caption between start and end.

    Args:
        spelled: True spells a word outside of the vocabulary in bytes. False leaves the bytes out: the word is then
            the single token `SPELL`, which a decoder can learn to expect but never writes.
    """
    tokens = tokenizer.encode(caption)
    return [START, *(token for token in tokens if spelled or not FIRST_BYTE <= token < FIRST_WORD), END]


def padded_tokens(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return token ids [N, T], padded at the right."""
    longest = max(map(len, sequences))
    return np.array([[*tokens, *[PAD] * (longest - len(tokens))] for tokens in sequences], np.int64)


def pieces(text: str) -> list[str]:
    """Cut a text into words, CJK characters, other characters and white space; together they are the text."""
    return _PIECE.findall(text)


def cut(text: str) -> Iterator[str]:
    """Yield the pieces without the usual spaces, and "" where a usual space is missing."""
    whole = pieces(text)
    for left, piece, right in zip(["", *whole], whole, [*whole[1:], ""], strict=False):
        if piece == " " and left and right and _joiner(left, right) == " ":
            continue
        if left and _joiner(left, piece) == " ":
            yield ""
        yield piece


def joined(written: Iterable[str]) -> str:
    """Return the text whose `cut` gives these pieces."""
    text = ""
    glued = False
    for piece in written:
        if piece:
            text += piece if glued else _joiner(text, piece) + piece
        glued = not piece
    return text


def is_cjk(text: str) -> bool:
    """Return True if the text begins with a Chinese, Japanese or Korean character."""
    return _IS_CJK.match(text) is not None


def _joiner(left: str, right: str) -> str:
    """Return the usual separator of two neighbouring texts: one space or nothing."""
    if not left or left[-1].isspace() or right[0].isspace():
        return ""
    return "" if _IS_CJK.match(left[-1]) and _IS_CJK.match(right[0]) else " "


def _repeated(words: Sequence[str]) -> str:
    return next(left for left, right in pairwise(sorted(words)) if left == right)
