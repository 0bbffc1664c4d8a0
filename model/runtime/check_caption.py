"""A caption by which it is noticed that ONNX Runtime computes something else than torch.

It is compared by its probability. Two captions of nearly the same probability may swap ranks when they are rounded.

Shapes:  P image regions   D feature size
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.decoders.search import DecodingOptions, WordDecoder, beam_search, softmax
from model.tokenizer import END, START

GREEDY = DecodingOptions(beam_size=1, max_tokens=12)
TOLERANCE = 0.05
"""Nats a token. Rounding to 8 bits changes 0.005 at most on images of the built-in bundles."""
REGIONS = 9


@dataclass(frozen=True, kw_only=True)
class Check:
    """What torch computes."""

    tokens: tuple[int, ...]
    """Of the most probable caption, without start and end."""
    log_prob: float
    """Natural log of its probability, its end included, among all tokens."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the check that `dataclasses.asdict` described."""
        return cls(tokens=tuple(map(int, fields["tokens"])), log_prob=float(fields["log_prob"]))

    def deviation(self, decoder: WordDecoder, features: NDArray[np.float32]) -> float:
        """Return how far another computation of the same caption is off, in nats a token.

        Args:
            decoder: has the same weights.
            features: of the same image, [P, D].
        """
        return abs(_log_prob(decoder, features, self.tokens) - self.log_prob) / (len(self.tokens) + 1)


def make_check(decoder: WordDecoder, features: NDArray[np.float32]) -> Check:
    """Return the most probable caption of an image with features [P, D]."""
    [[best, *_]] = beam_search(decoder, features[None], GREEDY)
    return Check(tokens=best.token_ids, log_prob=_log_prob(decoder, features, best.token_ids))


def check_picture() -> Image.Image:
    """Return a picture that every bundle can caption."""
    return Image.radial_gradient("L").convert("RGB")


def check_features(mean: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features [P, D] that are no image's, but of the size that a decoder is used to.

    Args:
        mean: of its features, [D].
        scale: 1 / deviation of each channel, [D].
    """
    waves = np.sin(np.arange(REGIONS * len(mean), dtype=np.float64)).reshape(REGIONS, -1)
    return np.asarray(mean + waves / scale, np.float32)


def _log_prob(decoder: WordDecoder, features: NDArray[np.float32], tokens: tuple[int, ...]) -> float:
    predicted = [*tokens, END]
    logits = decoder.predict(features[None], np.array([[START, *predicted]], np.int64))
    return float(np.log(softmax(logits)[range(len(predicted)), predicted]).sum())
