"""Whether captions are about their images: whether a captioner would miss the images if they were exchanged.

Shuffled captions, one caption for all, noise, and a language that nobody taught have this in common: each suits any
other image as well. A permutation test (Fisher 1935) tells: how many of two thousand random ways to hand out the same
captions to the same images are as probable as the one that people chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.captioner import Captioner
from model.tokenizer import FIRST_WORD, GLUE, Tokenizer
from model.training.teacher_forcing import MOST_PROBABLE, CaptionedFeatures, caption_losses

LOOKED_AT = 24
"""Captions, the newest: each is tried on the images of all others."""
FEWEST = 6
"""Captions that can be handed out in more ways than one in CHANCE."""
DRAWS = 1999
CHANCE = 0.002
ROUNDING = 1e-3
"""Nats that are no difference."""
WON_ENOUGH = 0.6
"""Share of comparisons below which captions are hardly about their images, however sure that little is."""


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """How captions suit their images, as one version sees it."""

    captions: int
    won: float
    """Share of comparisons with another image in which a caption suits its own image better; 0.5 is chance."""
    chance: float
    """Share of random ways to hand out the captions that suit the images as well as this one."""

    @property
    def is_sure(self) -> bool:
        """Whether they are about their images, beyond doubt."""
        return self.captions >= FEWEST and self.chance <= CHANCE and self.won >= WON_ENOUGH


def measure_relevance(captioner: Captioner, examples: Sequence[CaptionedFeatures]) -> Relevance | None:
    """Return how relevant the newest captions are to their images; None for fewer than two."""
    newest = list(examples[-LOOKED_AT:])
    count = len(newest)
    if count < 2:
        return None
    readable = [_readable(captioner.tokenizer, example.caption) for example in newest]
    tried = [replace(image, caption=caption) for caption in readable for image in newest]
    losses = torch.tensor(caption_losses(captioner.decoder, captioner.tokenizer, tried)).view(count, count)
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
    """Return the words that the captioner knows; how many others there are would tell of an image how full it is."""
    return tokenizer.decode([token for token in tokenizer.encode(caption) if token == GLUE or token >= FIRST_WORD])


def written_by(captioner: Captioner, examples: Sequence[CaptionedFeatures]) -> list[CaptionedFeatures]:
    """Return the same images with what the captioner writes about them."""
    if not examples:
        return []
    features = torch.stack([example.features for example in examples])
    return [
        replace(example, caption=found[0].text)
        for example, found in zip(examples, captioner.caption(features, MOST_PROBABLE), strict=True)
    ]
