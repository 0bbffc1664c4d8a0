"""The captioner: encoder, decoder and vocabulary of one model version, from image to caption."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from model.decoders.search import DecodingOptions, Hypothesis, WordDecoder, beam_search
from model.tokenizer import Tokenizer
from model.vision.encoder_spec import ImageEncoder

ARTICLES = ("a", "an", "the")


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption of one image."""

    text: str
    log_prob: float
    """Natural log of the probability of the caption, its end included."""
    score: float
    """Geometric mean of the tokens' probabilities, 0 to 1."""
    tokens: tuple[str, ...]
    """Readable forms of its token ids, one per row of attention."""
    attention: NDArray[np.float32]
    """Weights over the regions for each token, [T, P]."""


class Captioner:
    """Writes captions with one model version. Safe to share between threads."""

    def __init__(
        self,
        encoder: ImageEncoder,
        decoder: WordDecoder,
        tokenizer: Tokenizer,
        version: str,
        temperature: float = 1.0,
    ) -> None:
        """Join the parts of a captioner.

        Args:
            version: name of the model version.
            temperature: divides the decoder's logits where the probability of people's captions is asked for. Rewards
                make a decoder too sure of itself (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        """
        self.encoder = encoder
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.version = version
        self.temperature = temperature

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the features [B, P, D] of images of any size."""
        return self.encoder.encode([self.encoder.spec.preprocessing(image) for image in images])

    def caption(self, features: ArrayLike, options: DecodingOptions, at_least: int = 1) -> list[list[Caption]]:
        """Return up to `options.alternatives` captions for each image of features [B, P, D], the best first.

        No two captions of an image are the same after `normalized_caption`.

        Args:
            features: of the images.
            options: of the search.
            at_least: return so many captions if the search found them, in the same time.
        """
        searched = beam_search(self.decoder, features, options)
        count = max(options.alternatives, at_least)
        return [self._distinct(hypotheses)[:count] for hypotheses in searched]

    def _distinct(self, hypotheses: list[Hypothesis]) -> list[Caption]:
        captions: dict[str, Caption] = {}
        for hypothesis in hypotheses:
            caption = self._read(hypothesis)
            captions.setdefault(normalized_caption(caption.text), caption)
        return list(captions.values())

    def _read(self, hypothesis: Hypothesis) -> Caption:
        length = len(hypothesis.token_ids) + 1
        return Caption(
            text=self.tokenizer.decode(hypothesis.token_ids).strip(),
            log_prob=hypothesis.log_prob,
            score=min(1.0, math.exp(hypothesis.log_prob / length)),
            tokens=tuple(self.tokenizer.token(token) for token in hypothesis.token_ids),
            attention=hypothesis.attention,
        )


def normalized_caption(caption: str) -> str:
    """Return the caption without case, punctuation, articles and spaces, to compare it with others."""
    plain = "".join(" " if unicodedata.category(sign)[0] in "PZC" else sign for sign in caption.casefold())
    return "".join(word for word in plain.split() if word not in ARTICLES)
