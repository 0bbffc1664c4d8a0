"""The captions of one retraining: corrections of the project, beside captions of the bundle.

    corrections -> worker/feedback/selection.py -> held out for evaluation (worker/learning/holdout.py), or trained on
    replay      -> anchors, chosen by the features' content and only measured on, or trained on
    corrections compared with the bundle's own captions -> systematic edits -> replay and anchors in the project's words

Each part is bounded, so a retraining costs the same however many corrections a project has.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from model.captioned_features import CaptionedFeatures
from model.tokenizer import cut
from model.torch_captioner import TorchCaptioner
from model.training.held_out import MOST_PROBABLE
from model.vision.features import FeatureStore
from worker.feedback.record import Correction
from worker.feedback.selection import EXCLUDED, LIMITS, SelectionLimits, select_corrections
from worker.learning.holdout import Holdout
from worker.learning.wording_rules import SystematicEdit, find_systematic_edits, rewrite
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
"""Weight of new corrections beside everything else in the loss. At 3 a topic is learned no better and more of the
earlier ones is lost (tests/benchmarks/bench_learning.py); the wording of replay follows the project's anyway."""
LANGUAGE_SHARE = 4.0
"""The same in another language: an image does not tell in which one it is to be captioned, so the majority decides."""
FEWEST_APART = 10
SHARE_APART = 0.8
"""Share of new captions without a word of the suggestion, from which on annotators write another language."""
MAX_OLD_WEIGHT = 4
"""Old corrections count as much as all replay, but each no more than this."""


@dataclass(frozen=True, kw_only=True)
class CorrectedImage:
    """A correction beside the features of its image."""

    correction: Correction
    example: CaptionedFeatures
    is_new: bool
    """The served version was trained without it."""


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
    """Differences between the project's wording and the bundle's; the replay is rewritten by them."""
    rewritten_anchors: tuple[CaptionedFeatures, ...] = ()
    """The anchors, rewritten too."""

    @property
    def is_all_excluded(self) -> bool:
        """Every correction that is left out was excluded."""
        return all(reason.startswith(EXCLUDED) for reason in self.left_out)

    @property
    def is_another_language(self) -> bool:
        """Annotators no longer write a word of the captions that are suggested to them."""
        new = [corrected.correction for corrected in (*self.learned, *self.held_out) if corrected.is_new]
        pairs = [(_words(change.proposed), _words(change.caption)) for change in new if change.proposed is not None]
        apart = sum(proposed.isdisjoint(written) for proposed, written in pairs)
        return len(pairs) >= FEWEST_APART and apart >= SHARE_APART * len(pairs)

    @property
    def captions(self) -> list[str]:
        """Captions to train on; new words come from here, never from the held-out ones."""
        return [learned.correction.caption for learned in self.learned]

    @property
    def corrections(self) -> list[str]:
        """Names of the corrections that are trained on."""
        return [learned.correction.name for learned in self.learned]

    @property
    def requests(self) -> list[str]:
        """Ids of the requests that brought the new corrections."""
        new = [corrected.correction.request_id for corrected in (*self.learned, *self.held_out) if corrected.is_new]
        return sorted({request_id for request_id in new if request_id is not None})

    @property
    def known_states(self) -> list[str]:
        """States of all corrections that are trained or measured on; all others are new to the next version."""
        return sorted(corrected.correction.state for corrected in (*self.learned, *self.held_out))

    def rewritten(self, edits: Sequence[SystematicEdit], served: Sequence[SystematicEdit] = ()) -> "Dataset":
        """Return the dataset with the bundle's captions in the project's words.

        Args:
            edits: differences between the project's wording and the bundle's.
            served: differences between the served version's wording and the bundle's.
        """

        def rewrite_all(examples: Sequence[CaptionedFeatures]) -> tuple[CaptionedFeatures, ...]:
            return tuple(_rewritten(example, edits, served) for example in examples)

        return replace(
            self,
            edits=tuple(edits),
            learned=tuple(_with_paraphrases(learned, edits, served) for learned in self.learned),
            replay=rewrite_all(self.replay),
            rewritten_anchors=rewrite_all(self.anchors) if edits else (),
        )

    def training_examples(self, seed: int) -> list[CaptionedFeatures]:
        """Return new corrections, repeated so that every batch has some, beside a weighted draw of everything else.

        Old corrections are learned already, so only the served version's expectations of them are to be kept.
        """
        new = [learned.example for learned in self.learned if learned.is_new]
        old = [learned.example for learned in self.learned if not learned.is_new]
        draw = random.Random(seed)
        rehearsed = draw.sample(old, min(REHEARSED, len(old)))
        rehearsed = [replace(example, paraphrases=(example.caption,)) for example in rehearsed]
        replayed = draw.sample(self.replay, min(len(self.replay), max(REPLAYED, len(new))))
        old_weight = max(len(rehearsed), min(len(replayed), MAX_OLD_WEIGHT * len(rehearsed)))
        rest = [*_share_weight(rehearsed, old_weight), *replayed]
        if not new or not rest:
            return [*new, *rest]
        repeats = min(MAX_REPEATS, max(1, len(rest) // len(new)))
        share = LANGUAGE_SHARE if self.is_another_language else NEW_SHARE
        return [*_share_weight(new * repeats, share * sum(example.weight for example in rest)), *rest]


def build_dataset(
    corrections: Sequence[Correction],
    features: FeatureStore,
    bundle_replay: Sequence[CaptionedFeatures],
    holdout: Holdout,
    known_states: Collection[str] = (),
    excluded: Mapping[str, str] | None = None,
    limits: SelectionLimits = LIMITS,
) -> Dataset:
    """Split the corrections of one project, oldest first, and the bundle's replay.

    Corrections that are excluded, whose image was never read, or whose features are not stored, are left out and
    counted.

    Args:
        corrections: all of the project.
        features: of their images.
        bundle_replay: captions of the bundle.
        holdout: of the project.
        known_states: of corrections that the served version was trained or measured on.
        excluded: names of corrections that are not used, and the reasons.
        limits: the number of corrections to use.
    """
    used, left_out = find_usable(corrections, features, known_states, excluded or {}, limits)
    held_out = holdout.decide({str(usable.correction.image_key): usable.example.features for usable in used})
    replay, anchors = _split_replay(bundle_replay)
    return Dataset(
        learned=tuple(usable for usable in used if not held_out[str(usable.correction.image_key)]),
        held_out=tuple(usable for usable in used if held_out[str(usable.correction.image_key)]),
        replay=tuple(replay),
        anchors=tuple(anchors[:MAX_ANCHORS]),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def find_usable(
    corrections: Sequence[Correction],
    features: FeatureStore,
    known_states: Collection[str],
    excluded: Mapping[str, str],
    limits: SelectionLimits = LIMITS,
) -> tuple[list[CorrectedImage], Counter[str]]:
    """Return the corrections that can be trained or measured on, oldest first, and the count of others by reason."""
    selection = select_corrections(corrections, excluded, limits)
    left_out = selection.left_out.copy()
    return _with_features(selection.used, features, known_states, left_out), left_out


def find_project_edits(dataset: Dataset, bundle: TorchCaptioner) -> list[SystematicEdit]:
    """Return the differences between the wording of the newest corrections to train on and the bundle's.

    The edits that the served version was taught come first, then those of the new corrections beside them. So a new
    habit of twenty captions is not outvoted by hundreds of older captions, and a habit that annotators gave up is
    taken back. Corrections are compared with the bundle's captions, because a later version's suggestions have the
    project's words already.
    """
    newest = dataset.learned[-MAX_COMPARED:]
    taught = find_systematic_edits(_wording_pairs([learned for learned in newest if not learned.is_new], bundle))
    new = _wording_pairs([learned for learned in newest if learned.is_new], bundle)
    return [*taught, *find_systematic_edits((rewrite(ours, taught), theirs) for ours, theirs in new)]


def find_served_edits(dataset: Dataset, serving: TorchCaptioner, bundle: TorchCaptioner) -> list[SystematicEdit]:
    """Return the differences between the served version's wording and the bundle's, on the newest images.

    No correction has a habit any more that annotators gave up, but the served version still has it. The training would
    keep that habit if it were not recognised as a paraphrase.
    """
    features = torch.stack([learned.example.features for learned in dataset.learned[-BATCH:]])
    written = (captioner.caption(features, MOST_PROBABLE) for captioner in (bundle, serving))
    return find_systematic_edits((before[0].text, now[0].text) for before, now in zip(*written, strict=True))


def _wording_pairs(corrected: Sequence[CorrectedImage], bundle: TorchCaptioner) -> list[tuple[str, str]]:
    """Return for each image the bundle's caption, and the one that people wrote."""
    pairs = []
    for start in range(0, len(corrected), BATCH):
        batch = corrected[start : start + BATCH]
        ours = bundle.caption(torch.stack([image.example.features for image in batch]), MOST_PROBABLE)
        pairs += [(captions[0].text, image.correction.caption) for captions, image in zip(ours, batch, strict=True)]
    return pairs


def _share_weight(examples: Sequence[CaptionedFeatures], total: float) -> list[CaptionedFeatures]:
    """Let the examples share this weight."""
    return [replace(example, weight=total / len(examples)) for example in examples]


def _rewritten(
    example: CaptionedFeatures, edits: Sequence[SystematicEdit], served: Sequence[SystematicEdit]
) -> CaptionedFeatures:
    """Return a caption of the bundle in the project's words, with the wordings that the decoder may know."""
    rewritten, as_served = rewrite(example.caption, edits), rewrite(example.caption, served)
    paraphrases = tuple(dict.fromkeys((example.caption, as_served, rewritten)))
    return replace(example, caption=rewritten, paraphrases=paraphrases)


def _with_paraphrases(
    learned: CorrectedImage, edits: Sequence[SystematicEdit], served: Sequence[SystematicEdit]
) -> CorrectedImage:
    """Add our suggestion as a paraphrase of the correction, if systematic edits are the only difference."""
    proposed, caption = learned.correction.proposed, learned.correction.caption
    if proposed is None:
        return learned
    if not (_is_same(rewrite(proposed, edits), caption) or _is_same(proposed, rewrite(caption, served))):
        return learned
    return replace(learned, example=replace(learned.example, paraphrases=tuple(dict.fromkeys((proposed, caption)))))


def _words(caption: str) -> set[str]:
    return {word.casefold() for word in cut(caption) if any(map(str.isalnum, word))}


def _is_same(caption: str, other: str) -> bool:
    return [*cut(caption)] == [*cut(other)]


def _with_features(
    corrections: Sequence[Correction], features: FeatureStore, known_states: Collection[str], left_out: Counter[str]
) -> list[CorrectedImage]:
    images = []
    for correction in corrections:
        stored = features.get(str(correction.image_key))
        if stored is None:
            left_out["the features of its image are not stored"] += 1
            continue
        example = CaptionedFeatures(features=torch.from_numpy(stored), caption=correction.caption)
        is_new = correction.state not in known_states
        images.append(CorrectedImage(correction=correction, example=example, is_new=is_new))
    return images


def _split_replay(
    replay: Sequence[CaptionedFeatures],
) -> tuple[list[CaptionedFeatures], list[CaptionedFeatures]]:
    """Return the captions to train on and those to measure on; the captions of one image stay together."""
    trained: list[CaptionedFeatures] = []
    anchors: list[CaptionedFeatures] = []
    for example in replay:
        content = hashlib.sha256(example.features.contiguous().numpy().tobytes()).hexdigest()
        (anchors if is_held_out(content) else trained).append(example)
    return trained, anchors
