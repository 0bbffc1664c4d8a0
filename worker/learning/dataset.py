"""What one retraining learns from and is measured on: corrections of the project, beside captions of the bundle.

    corrections -> worker/feedback/selection.py -> held out (worker/learning/holdout.py), else trained on
    replay      -> anchors by the features' content, measured on and never trained on, else trained on
    corrections beside the bundle's own captions -> systematic edits -> replay and anchors in the project's words

All of them are bounded, so a retraining costs the same however many corrections a project has ever had.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from model.captioner import Captioner
from model.tokenizer import cut
from model.training.teacher_forcing import MOST_PROBABLE, CaptionedFeatures
from model.vision.features import FeatureStore
from worker.feedback.corrections import Correction
from worker.feedback.selection import SET_ASIDE, select_corrections
from worker.learning.holdout import Holdout
from worker.learning.wording_rules import SystematicEdit, find_systematic_edits, restate
from worker.policy import is_held_out

MAX_ANCHORS = 256
REPLAYED = 256
"""Captions of the bundle in one training, or as many as there are new corrections."""
REHEARSED = 128
"""Old corrections in one training."""
MAX_REPEATS = 16
MAX_COMPARED = 256
"""The newest corrections that are compared with the bundle's captions."""
BATCH = 64

NEW_SHARE = 0.6
"""How much new corrections count beside all else in the whole loss. At 3 a topic is learned no better and more of the
earlier ones is lost (tests/benchmarks/bench_learning.py); the wording of replay follows the project's anyway."""
LANGUAGE_SHARE = 4.0
"""The same in another language: an image does not tell in which one it is to be captioned, so the most is written."""
FEWEST_APART = 10
SHARE_APART = 0.8
"""Of the new captions, so many have no word of what was proposed when annotators write another language."""
MAX_OLD_WEIGHT = 4
"""Old corrections count as much as all replay, but none more than this."""


@dataclass(frozen=True, kw_only=True)
class CorrectedImage:
    """A correction beside the features of its image."""

    correction: Correction
    example: CaptionedFeatures
    is_new: bool
    """Whether the serving version was trained without it."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Examples of one retraining."""

    learned: tuple[CorrectedImage, ...]
    """Corrections to train on, oldest first."""
    held_out: tuple[CorrectedImage, ...]
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
    def is_set_aside(self) -> bool:
        """Whether all that is left out is so because it was set aside."""
        return all(reason.startswith(SET_ASIDE) for reason in self.left_out)

    @property
    def is_another_language(self) -> bool:
        """Whether annotators no longer write a word of what is proposed to them."""
        told = [one.correction for one in (*self.learned, *self.held_out) if one.is_new]
        pairs = [(_words(one.proposed), _words(one.caption)) for one in told if one.proposed is not None]
        apart = sum(proposed.isdisjoint(written) for proposed, written in pairs)
        return len(pairs) >= FEWEST_APART and apart >= SHARE_APART * len(pairs)

    @property
    def captions(self) -> list[str]:
        """What was written for the images to train on; new words come from here, never from the held-out ones."""
        return [learned.correction.caption for learned in self.learned]

    @property
    def corrections(self) -> list[str]:
        """Names of the corrections that are trained on."""
        return [learned.correction.name for learned in self.learned]

    @property
    def requests(self) -> list[str]:
        """Ids of the requests that told of the new corrections."""
        new = [one.correction.request_id for one in (*self.learned, *self.held_out) if one.is_new]
        return sorted({request_id for request_id in new if request_id is not None})

    @property
    def known_states(self) -> list[str]:
        """States of all corrections that are trained or measured on: what is new to the next version is not here."""
        return sorted(one.correction.state for one in (*self.learned, *self.held_out))

    def restated(self, edits: Sequence[SystematicEdit], served: Sequence[SystematicEdit] = ()) -> "Dataset":
        """Return the dataset with the bundle's captions as the project would have them.

        Args:
            edits: how the project words captions otherwise than the bundle.
            served: how the serving version does, which knows the bundle's captions so.
        """

        def told(examples: Sequence[CaptionedFeatures]) -> tuple[CaptionedFeatures, ...]:
            return tuple(
                replace(example, caption=wanted, wordings=tuple(dict.fromkeys((example.caption, known, wanted))))
                for example in examples
                for known, wanted in [(restate(example.caption, served), restate(example.caption, edits))]
            )

        return replace(
            self,
            edits=tuple(edits),
            learned=tuple(_explained(learned, edits, served) for learned in self.learned),
            replay=told(self.replay),
            restated_anchors=told(self.anchors) if edits else (),
        )

    def training_examples(self, seed: int) -> list[CaptionedFeatures]:
        """Return new corrections, repeated so that every batch has some, beside a draw of all else, weighted.

        Old ones are learned already: of them the serving version's expectations are to be kept.
        """
        new = [learned.example for learned in self.learned if learned.is_new]
        old = [learned.example for learned in self.learned if not learned.is_new]
        draw = random.Random(seed)
        rehearsed = [replace(one, wordings=(one.caption,)) for one in draw.sample(old, min(REHEARSED, len(old)))]
        replayed = draw.sample(self.replay, min(len(self.replay), max(REPLAYED, len(new))))
        much = max(len(rehearsed), min(len(replayed), MAX_OLD_WEIGHT * len(rehearsed)))
        rest = [*_weighing(rehearsed, much), *replayed]
        if not new or not rest:
            return [*new, *rest]
        repeats = min(MAX_REPEATS, max(1, len(rest) // len(new)))
        share = LANGUAGE_SHARE if self.is_another_language else NEW_SHARE
        return [*_weighing(new * repeats, share * sum(one.weight for one in rest)), *rest]


def build_dataset(
    corrections: Sequence[Correction],
    features: FeatureStore,
    bundle_replay: Sequence[CaptionedFeatures],
    holdout: Holdout,
    known_states: Collection[str] = (),
    set_aside: Mapping[str, str] | None = None,
) -> Dataset:
    """Split the corrections of one project, oldest first, and the bundle's replay.

    A correction that is set aside, whose image nobody has read, or whose features are not stored, is left out and
    counted.

    Args:
        corrections: all of the project.
        features: of their images.
        bundle_replay: captions of the bundle.
        holdout: of the project.
        known_states: of corrections that the serving version was trained or measured on.
        set_aside: names of corrections that are not used, and why.
    """
    used, left_out = find_usable(corrections, features, known_states, set_aside or {})
    held_out = holdout.decide({str(one.correction.image_key): one.example.features for one in used})
    replay, anchors = _split_replay(bundle_replay)
    return Dataset(
        learned=tuple(one for one in used if not held_out[str(one.correction.image_key)]),
        held_out=tuple(one for one in used if held_out[str(one.correction.image_key)]),
        replay=tuple(replay),
        anchors=tuple(anchors[:MAX_ANCHORS]),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def find_usable(
    corrections: Sequence[Correction],
    features: FeatureStore,
    known_states: Collection[str],
    set_aside: Mapping[str, str],
) -> tuple[list[CorrectedImage], Counter[str]]:
    """Return what can be trained or measured on, oldest first, and how many corrections cannot, by reason."""
    selection = select_corrections(corrections, set_aside)
    left_out = selection.left_out.copy()
    return _with_features(selection.used, features, known_states, left_out), left_out


def find_wording(dataset: Dataset, bundle: Captioner) -> list[SystematicEdit]:
    """Return how the newest corrections to train on word captions otherwise than the bundle does.

    First what the serving version was taught, then what is new beside it: a new habit of twenty captions is not to be
    outvoted by hundreds that were written before anybody had it, and one that was given up is taken back. The bundle
    is asked as what a later version proposed has the project's words already.
    """
    newest = dataset.learned[-MAX_COMPARED:]
    known = find_systematic_edits(_wording_pairs([one for one in newest if not one.is_new], bundle))
    new = _wording_pairs([one for one in newest if one.is_new], bundle)
    return [*known, *find_systematic_edits((restate(ours, known), theirs) for ours, theirs in new)]


def find_served_wording(dataset: Dataset, serving: Captioner, bundle: Captioner) -> list[SystematicEdit]:
    """Return how the serving version words captions otherwise than the bundle, as told by the newest images.

    A habit that annotators gave up stands in no correction any more, and the serving version still has it: unless it
    is known for a wording, it would be kept.
    """
    features = torch.stack([one.example.features for one in dataset.learned[-BATCH:]])
    said = (captioner.caption(features, MOST_PROBABLE) for captioner in (bundle, serving))
    return find_systematic_edits((before[0].text, now[0].text) for before, now in zip(*said, strict=True))


def _wording_pairs(corrected: Sequence[CorrectedImage], bundle: Captioner) -> list[tuple[str, str]]:
    """Return what the bundle says of each image, and what people wrote."""
    pairs = []
    for start in range(0, len(corrected), BATCH):
        batch = corrected[start : start + BATCH]
        features = torch.stack([one.example.features for one in batch])
        ours = bundle.caption(features, MOST_PROBABLE)
        pairs += [(found[0].text, one.correction.caption) for found, one in zip(ours, batch, strict=True)]
    return pairs


def _weighing(examples: Sequence[CaptionedFeatures], total: float) -> list[CaptionedFeatures]:
    """Let the examples share this weight."""
    return [replace(example, weight=total / len(examples)) for example in examples]


def _explained(
    learned: CorrectedImage, edits: Sequence[SystematicEdit], served: Sequence[SystematicEdit]
) -> CorrectedImage:
    """Say of a correction that is what we proposed, in the project's words, that we know the rest of it."""
    proposed, caption = learned.correction.proposed, learned.correction.caption
    if proposed is None or not (_same(restate(proposed, edits), caption) or _same(proposed, restate(caption, served))):
        return learned
    return replace(learned, example=replace(learned.example, wordings=tuple(dict.fromkeys((proposed, caption)))))


def _words(caption: str) -> set[str]:
    return {word.casefold() for word in cut(caption) if any(map(str.isalnum, word))}


def _same(caption: str, other: str) -> bool:
    return [*cut(caption)] == [*cut(other)]


def _with_features(
    corrections: Sequence[Correction], features: FeatureStore, known_states: Collection[str], left_out: Counter[str]
) -> list[CorrectedImage]:
    found = []
    for correction in corrections:
        stored = features.get(str(correction.image_key))
        if stored is None:
            left_out["the features of its image are not stored"] += 1
            continue
        example = CaptionedFeatures(features=stored, caption=correction.caption)
        is_new = correction.state not in known_states
        found.append(CorrectedImage(correction=correction, example=example, is_new=is_new))
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
