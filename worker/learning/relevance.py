"""Relevance of captions to their images: would a captioner notice if the captions were shuffled among the images?

Shuffled captions, one caption for all images, noise, and an unknown language have something in common: each caption
fits any other image as well. A permutation test (Fisher 1935) measures that: it shuffles the captions in two thousand
random ways, and counts those that are as probable as the way that people chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.captioned_features import CaptionedFeatures
from model.tokenizer import FIRST_WORD, GLUE, Tokenizer
from model.torch_captioner import TorchCaptioner
from model.training.held_out import MOST_PROBABLE
from model.training.losses import caption_losses

COMPARED = 24
"""The newest captions: each is compared on the images of all others."""
FEWEST = 6
"""With fewer captions there are too few ways to shuffle them to reach CHANCE."""
DRAWS = 1999
CHANCE = 0.002
ROUNDING = 1e-3
"""Differences of fewer nats do not count."""
WON_ENOUGH = 0.6
"""Captions that win a smaller share of comparisons hardly describe their images."""


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """The fit of captions to their images, as judged by a version."""

    captions: int
    won: float
    """Share of comparisons with another image in which a caption fits its own image better; 0.5 is chance."""
    chance: float
    """Share of random shuffles in which the captions fit the images as well."""

    @property
    def is_sure(self) -> bool:
        """The captions describe their images beyond doubt."""
        return self.captions >= FEWEST and self.chance <= CHANCE and self.won >= WON_ENOUGH


def measure_relevance(captioner: TorchCaptioner, examples: Sequence[CaptionedFeatures]) -> Relevance | None:
    """Return the relevance of the newest captions to their images; None for fewer than two."""
    newest = list(examples[-COMPARED:])
    count = len(newest)
    if count < 2:
        return None
    readable = [_readable(captioner.tokenizer, example.caption) for example in newest]
    pairs = [replace(image, caption=caption) for caption in readable for image in newest]
    losses = torch.tensor(
        caption_losses(captioner.decoder, captioner.tokenizer, pairs, temperature=captioner.temperature)
    ).view(count, count)
    chosen = losses.diagonal()
    elsewhere = ~torch.eye(count, dtype=torch.bool)
    better = losses - chosen.unsqueeze(1)
    won = (better > ROUNDING).float() + 0.5 * (better.abs() <= ROUNDING)
    order = torch.Generator().manual_seed(count)
    captions = torch.arange(count)
    as_well = sum(
        bool(losses[captions, torch.randperm(count, generator=order)].sum() <= chosen.sum() + ROUNDING)
        for _ in range(DRAWS)
    )
    return Relevance(captions=count, won=float(won[elsewhere].mean()), chance=(1 + as_well) / (1 + DRAWS))


def _readable(tokenizer: Tokenizer, caption: str) -> str:
    """Return the words that the captioner knows: the mere number of unknown words can hint at an image."""
    return tokenizer.decode([token for token in tokenizer.encode(caption) if token == GLUE or token >= FIRST_WORD])


def written_by(captioner: TorchCaptioner, examples: Sequence[CaptionedFeatures]) -> list[CaptionedFeatures]:
    """Return the same images with the captions that the captioner writes for them."""
    if not examples:
        return []
    features = torch.stack([example.features for example in examples])
    return [
        replace(example, caption=captions[0].text)
        for example, captions in zip(examples, captioner.caption(features, MOST_PROBABLE), strict=True)
    ]
