"""The words that the decoder expects at each place of a caption that somebody else wrote (teacher forcing).

Shapes:  P image regions   D feature size   M predicted tokens of all captions   V vocabulary
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.captioner import Captioner
from model.decoders.search import softmax
from model.tokenizer import FIRST_WORD, Tokenizer, caption_tokens, cut, padded_tokens

MOST_PROBABLE = 24
"""Tokens that are kept of each place; they are fewer words, because "A" and "a" are one word."""
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ExpectedWord:
    """A word of a caption, and the words that the decoder expects at its place. All words are in lower case."""

    word: str
    probability: float
    """That the decoder gives to this very word."""
    instead: Mapping[str, float]
    """Probabilities of other words; only the most probable ones."""


Expected = tuple[ExpectedWord, ...]
"""Of the words of one caption, in order. Signs are left out."""


def expect_words(
    captioner: Captioner, features: Sequence[NDArray[np.float16]], captions: Sequence[str]
) -> list[Expected]:
    """Return for each caption what the decoder expects at its words.

    Args:
        captioner: its decoder reads the captions, at its temperature.
        features: of the image of each caption, [P, D].
        captions: that people wrote.
    """
    expected: list[Expected] = []
    for start in range(0, len(captions), BATCH):
        some = captions[start : start + BATCH]
        tokens = padded_tokens([caption_tokens(captioner.tokenizer, caption) for caption in some])
        logits = captioner.decoder.predict(np.stack(features[start : start + BATCH]), tokens)
        places = [list(cut(caption)) for caption in some]
        ends = np.cumsum([len(pieces) + 1 for pieces in places])
        rows = np.split(softmax(logits / captioner.temperature), ends[:-1])
        expected += [
            _expected(captioner.tokenizer, pieces, probabilities)
            for pieces, probabilities in zip(places, rows, strict=True)
        ]
    return expected


def _expected(tokenizer: Tokenizer, pieces: Sequence[str], probabilities: NDArray[np.float32]) -> Expected:
    """Return the expected words of one caption.

    Args:
        tokenizer: of the captioner.
        pieces: of the caption; each is one token.
        probabilities: of all tokens at each piece and at the end, [pieces + 1, V].
    """
    words = []
    for piece, own_row in zip(pieces, probabilities, strict=False):
        if not any(map(str.isalnum, piece)):
            continue
        word = piece.casefold()
        of_words: dict[str, float] = {}
        for token in np.argsort(-own_row, kind="stable")[:MOST_PROBABLE].tolist():
            other = tokenizer.token(token).casefold()
            if token >= FIRST_WORD and any(map(str.isalnum, other)):
                of_words[other] = of_words.get(other, 0.0) + float(own_row[token])
        own = float(own_row[tokenizer.encode(piece)[0]])
        words.append(ExpectedWord(word=word, probability=max(own, of_words.pop(word, 0.0)), instead=of_words))
    return tuple(words)
