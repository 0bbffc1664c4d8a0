"""Batches of captions for training, in a random order that a seed decides.

Shapes:  B images of a batch   N captions of a batch   T tokens   P regions   D feature size
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.captioned_features import CaptionedFeatures
from model.tokenizer import Tokenizer, caption_tokens, padded_tokens
from model.training.processes import ALONE, Processes


class Batch(NamedTuple):
    """This process's share of a batch."""

    features: Tensor
    """[B, P, D], in the stored precision."""
    images: Tensor
    """Row of `features` that each caption describes, [N]."""
    tokens: Tensor
    """[N, T], from start to end, padded at the right."""
    weights: Tensor
    """[N]. All are 0 when the batch has too few images for this process; it then repeats another process's image."""
    examples: list[int]
    """Numbers of the captions among all examples, [N]."""


class Batches:
    """Shuffled batches of captions. Each epoch has a new order; all captions of an image stay in one batch if they fit.

    `order` draws the order. All processes use the same seed, so they draw the same order.
    """

    def __init__(
        self,
        examples: Sequence[CaptionedFeatures],
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        self.order = torch.Generator().manual_seed(seed)
        self._examples = examples
        self._tokens = [caption_tokens(tokenizer, example.caption) for example in examples]
        self._images = group_by_image(examples)
        self._size = batch_size
        self._processes = processes

    def __len__(self) -> int:
        return math.ceil(len(self._examples) / self._size)

    def __iter__(self) -> Iterator[Batch]:
        shuffled = [self._images[image] for image in torch.randperm(len(self._images), generator=self.order).tolist()]
        ordered = [(image, example) for image, examples in enumerate(shuffled) for example in examples]
        for start in range(0, len(ordered), self._size):
            captions = ordered[start : start + self._size]
            images = sorted({image for image, _ in captions})
            # Views are drawn for the images of all processes, so that the generators stay in the same state.
            views = {image: draw_view([self._examples[e] for e in shuffled[image]], self.order) for image in images}
            yield self._share(captions, views)

    def _share(self, captions: Sequence[tuple[int, int]], views: dict[int, Tensor]) -> Batch:
        images = list(views)
        own = self._processes.share(images)
        rows = {image: row for row, image in enumerate(own or images[:1])}
        chosen = [(rows[image], example) for image, example in captions if image in rows]
        weights = torch.tensor([self._examples[example].weight for _, example in chosen])
        return Batch(
            features=torch.stack([views[image] for image in rows]),
            images=torch.tensor([row for row, _ in chosen]),
            tokens=padded([self._tokens[example] for _, example in chosen]),
            weights=weights if own else torch.zeros_like(weights),
            examples=[example for _, example in chosen],
        )


def draw_view(captions: Sequence[CaptionedFeatures], order: torch.Generator) -> Tensor:
    """Return the features of an image, or of one of its views for which all these captions are true, [P, D]."""
    views = min((caption.views for caption in captions), key=len)
    number = int(torch.randint(len(views) + 1, (), generator=order)) if views else 0
    return views[number - 1] if number else captions[0].features


def group_by_image(examples: Sequence[CaptionedFeatures]) -> list[list[int]]:
    """Return groups of numbers of examples: the captions of one image.

    A caption that occurs n times for an image goes into n groups, so that no group holds it twice.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    repeats: Counter[tuple[int, str]] = Counter()
    for number, example in enumerate(examples):
        caption = (id(example.features), example.caption)
        groups.setdefault((caption[0], repeats[caption]), []).append(number)
        repeats[caption] += 1
    return list(groups.values())


def padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return token ids [N, T], padded at the right."""
    return torch.from_numpy(padded_tokens(sequences))
