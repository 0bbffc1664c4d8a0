"""What one retraining learns from and is measured on: corrections of the project, beside captions of the bundle.

    corrections -> the newest of each image -> held out by the image's content, else trained on
    replay      -> anchors by the features' content, measured on and never trained on, else trained on
    corrections beside the bundle's own captions -> systematic edits -> replay and anchors in the project's words

A retraining costs the same however many corrections a project has ever had: old ones beyond the bounds rest.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from model.captioner import Captioner
from model.training.captions import MOST_PROBABLE, CaptionedFeatures
from model.vision.features import FeatureStore
from worker.corrections import Correction
from worker.edits import SystematicEdit, restate
from worker.policy import is_held_out

MAX_CORRECTIONS = 1024
"""The newest that are trained on."""
MAX_HELD_OUT = 256
"""The newest that are measured on; as many anchors at most."""
MIN_REPLAY = 256
MAX_REPEATS = 16
MAX_COMPARED = 256
"""The newest corrections that are compared with the bundle's captions."""
BATCH = 64

CORRECTION_SHARE = 3.0
"""How much more corrections count than replay in the whole loss, so that they win where the two contradict."""


@dataclass(frozen=True, kw_only=True)
class LearnedCorrection:
    """A correction beside the features of its image."""

    correction: Correction
    example: CaptionedFeatures


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Examples of one retraining."""

    learned: tuple[LearnedCorrection, ...]
    """Corrections to train on, oldest first."""
    held_out: tuple[CaptionedFeatures, ...]
    """Corrections to measure on; their images are never trained on."""
    replay: tuple[CaptionedFeatures, ...]
    """Captions of the bundle to train on."""
    anchors: tuple[CaptionedFeatures, ...]
    """Captions of the bundle to measure on."""
    left_out: Mapping[str, int]
    """Corrections that could not be used, counted by reason."""
    edits: tuple[SystematicEdit, ...] = ()
    """How the project words captions otherwise than the bundle; the replay is worded so."""
    restated_anchors: tuple[CaptionedFeatures, ...] = ()
    """The anchors, worded so too."""

    @property
    def captions(self) -> list[str]:
        """What was written for the images to train on; new words come from here, never from the held-out ones."""
        return [learned.correction.caption for learned in self.learned]

    @property
    def corrections(self) -> list[str]:
        """Names of the corrections that are trained on."""
        return [learned.correction.name for learned in self.learned]

    def restated(self, edits: Sequence[SystematicEdit]) -> "Dataset":
        """Return the dataset with the bundle's captions as the project would have them."""

        def told(examples: Sequence[CaptionedFeatures]) -> tuple[CaptionedFeatures, ...]:
            return tuple(replace(example, caption=restate(example.caption, edits)) for example in examples)

        return replace(
            self, edits=tuple(edits), replay=told(self.replay), restated_anchors=told(self.anchors) if edits else ()
        )

    def training_examples(self, seed: int) -> list[CaptionedFeatures]:
        """Return corrections, repeated so that every batch has some, and a draw of the replay, weighted."""
        corrections = [learned.example for learned in self.learned]
        count = min(len(self.replay), max(MIN_REPLAY, len(corrections)))
        drawn = random.Random(seed).sample(self.replay, count)
        repeats = min(MAX_REPEATS, max(1, count // len(corrections)))
        share = CORRECTION_SHARE * count / (len(corrections) * repeats) if drawn else 1.0
        return [*(replace(example, weight=share) for example in corrections * repeats), *drawn]


def build_dataset(
    corrections: Sequence[Correction], features: FeatureStore, bundle_replay: Sequence[CaptionedFeatures]
) -> Dataset:
    """Split the corrections of one project, oldest first, and the bundle's replay.

    A correction whose image nobody has read, or whose features are not stored, is left out and counted.
    """
    left_out: Counter[str] = Counter()
    known = [correction for correction in corrections if correction.image_key is not None]
    left_out["its image was never read"] = len(corrections) - len(known)
    newest = _newest_per_image(known)
    left_out["a newer caption of its image exists"] = len(known) - len(newest)

    held_out = _with_features([c for c in newest if is_held_out(str(c.image_key))][-MAX_HELD_OUT:], features, left_out)
    learned = _with_features(
        [c for c in newest if not is_held_out(str(c.image_key))][-MAX_CORRECTIONS:], features, left_out
    )
    replay, anchors = _split_replay(bundle_replay)
    return Dataset(
        learned=tuple(learned),
        held_out=tuple(one.example for one in held_out),
        replay=tuple(replay),
        anchors=tuple(anchors[:MAX_HELD_OUT]),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def wording_pairs(dataset: Dataset, bundle: Captioner) -> list[tuple[str, str]]:
    """Return for the newest corrections to train on what the bundle itself says, and what people wrote.

    What a later version proposed has the project's words already and would tell nothing of them.
    """
    newest = dataset.learned[-MAX_COMPARED:]
    pairs = []
    for start in range(0, len(newest), BATCH):
        batch = newest[start : start + BATCH]
        features = torch.stack([learned.example.features for learned in batch])
        ours = bundle.caption(features, MOST_PROBABLE)
        pairs += [(found[0].text, one.correction.caption) for found, one in zip(ours, batch, strict=True)]
    return pairs


def _newest_per_image(corrections: Sequence[Correction]) -> list[Correction]:
    """Keep the newest caption of each image and control, in the order they were written."""
    newest: dict[tuple[str | None, str], Correction] = {}
    for correction in corrections:
        newest.pop((correction.image_key, correction.control), None)
        newest[correction.image_key, correction.control] = correction
    return list(newest.values())


def _with_features(
    corrections: Sequence[Correction], features: FeatureStore, left_out: Counter[str]
) -> list[LearnedCorrection]:
    found = []
    for correction in corrections:
        stored = features.get(str(correction.image_key))
        if stored is None:
            left_out["the features of its image are not stored"] += 1
            continue
        example = CaptionedFeatures(features=stored, caption=correction.caption)
        found.append(LearnedCorrection(correction=correction, example=example))
    return found


def _split_replay(
    replay: Sequence[CaptionedFeatures],
) -> tuple[list[CaptionedFeatures], list[CaptionedFeatures]]:
    """Return what to train on and what to measure on; the captions of one image stay together."""
    trained: list[CaptionedFeatures] = []
    anchors: list[CaptionedFeatures] = []
    for example in replay:
        content = hashlib.sha256(example.features.contiguous().numpy().tobytes()).hexdigest()
        (anchors if is_held_out(content) else trained).append(example)
    return trained, anchors
