"""What a version writes: captions as it will serve them, and the faults that a reader sees in them.

A version can read people's captions well and still write loops, so the gate looks at both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.metrics.faults import Usage, caption_faults, caption_words
from model.torch_captioner import TorchCaptioner
from worker.learning.dataset import CorrectedImage, Dataset

CAPTIONED = 64
"""Images that both versions caption."""
OF_ONE_KIND = 24
"""The newest held-out images, and the newest trained ones; anchors fill the rest."""
BATCH = 32
CHANCE = 0.05
"""A difference that is less probable by chance counts."""
SERVED = DecodingOptions()


@dataclass(frozen=True, kw_only=True)
class Written:
    """A caption of a version, and its faults."""

    caption: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Captions of the candidate and of the served version for the same images, beside people's captions."""

    candidate: tuple[Written, ...]
    serving: tuple[Written, ...]
    people: int
    """Captions that people wrote."""
    people_faulty: int
    """How many of them have the same faults."""

    @property
    def faulty(self) -> tuple[int, int]:
        """Faulty captions of the candidate and of the served version."""
        return _faulty(self.candidate), _faulty(self.serving)

    @property
    def spoiled(self) -> tuple[Written, ...]:
        """Faulty captions of the candidate for images that the served version captions without a fault."""
        pairs = zip(self.candidate, self.serving, strict=True)
        return tuple(ours for ours, before in pairs if ours.faults and not before.faults)

    @property
    def is_clean(self) -> bool:
        """The candidate is not clearly more often faulty than the served version, or not more often than people.

        The first is a sign test on the images with a fault of one version only (Dixon and Mood 1946,
        https://doi.org/10.1080/01621459.1946.10501898), the second a binomial test.
        """
        faulty, before = self.faulty
        spoiled = len(self.spoiled)
        mended = before - (faulty - spoiled)
        of_people = (self.people_faulty + 1) / (self.people + 2)
        by_chance = _at_least(spoiled, spoiled + mended, 0.5)
        return by_chance > CHANCE or _at_least(faulty, len(self.candidate), of_people) > CHANCE

    def summary(self) -> dict[str, Any]:
        """Return the counts, and the faulty captions of the candidate that the served version writes well."""
        faulty, before = self.faulty
        return {
            "captions": len(self.candidate),
            "candidate": faulty,
            "serving": before,
            "people": self.people_faulty / self.people if self.people else None,
            "examples": [{"caption": written.caption, "faults": list(written.faults)} for written in self.spoiled[:3]],
        }


def _faulty(captions: Sequence[Written]) -> int:
    return sum(bool(caption.faults) for caption in captions)


class Writer:
    """Captions the same images with any version, and compares it with the served one."""

    def __init__(self, serving: TorchCaptioner, dataset: Dataset) -> None:
        people = [caption_words(caption) for caption in _written_by_people(dataset)]
        self._usage = Usage.of(people)
        self._people = len(people)
        self._people_faulty = sum(bool(caption_faults(words, self._usage)) for words in people)
        self._features = [example.features for example in _images(dataset)]
        self._serving = self._write(serving)

    def compare(self, candidate: TorchCaptioner) -> Writing:
        return Writing(
            candidate=self._write(candidate),
            serving=self._serving,
            people=self._people,
            people_faulty=self._people_faulty,
        )

    def _write(self, captioner: TorchCaptioner) -> tuple[Written, ...]:
        written: list[Written] = []
        for start in range(0, len(self._features), BATCH):
            features = torch.stack(self._features[start : start + BATCH])
            for captions in captioner.caption(features, SERVED):
                best = captions[0]
                is_cut = len(best.tokens) >= SERVED.max_tokens
                faults = caption_faults(caption_words(best.text), self._usage, is_cut=is_cut)
                written.append(Written(caption=best.text, faults=faults))
        return tuple(written)


def _images(dataset: Dataset) -> list[CaptionedFeatures]:
    """Return different images, the newest of the project and those of the anchors."""
    ours = [*_newest(dataset.held_out), *_newest(dataset.learned), *dataset.anchors]
    return list({id(example.features): example for example in ours}.values())[:CAPTIONED]


def _newest(corrected: Sequence[CorrectedImage]) -> list[CaptionedFeatures]:
    return [image.example for image in corrected[-OF_ONE_KIND:]]


def _written_by_people(dataset: Dataset) -> list[str]:
    corrected = [image.correction.caption for image in (*dataset.learned, *dataset.held_out)]
    return [*corrected, *(example.caption for example in (*dataset.replay, *dataset.anchors))]


def _at_least(count: int, of: int, probability: float) -> float:
    """Return the probability of so many successes or more (binomial)."""
    return sum(comb(of, k) * probability**k * (1 - probability) ** (of - k) for k in range(count, of + 1))
