import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from model.captioned_features import CaptionedFeatures
from model.captioner import Caption
from model.decoders.search import DecodingOptions
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.vision.features import FeatureStore
from tests.factories import make_correction
from worker.feedback.record import Correction
from worker.feedback.selection import SelectionLimits
from worker.learning import dataset as module
from worker.learning.dataset import NEW_SHARE, REHEARSED, Dataset, find_project_edits, find_served_edits
from worker.learning.holdout import Holdout
from worker.learning.wording_rules import SystematicEdit, rewrite
from worker.policy import is_held_out

LEARNED_KEY = "00000001" + "a" * 56
HELD_OUT_KEY = "00000005" + "a" * 56
PUPPY = SystematicEdit(before=("dog",), after=("puppy",), support=5, applicable=5)


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    return FeatureStore(Store(tmp_path), "0123456789ab")


def build_dataset(
    corrections: list[Correction],
    features: FeatureStore,
    replay: list[CaptionedFeatures],
    trained: Sequence[Correction] = (),
    excluded: dict[str, str] | None = None,
    **limits: int,
) -> Dataset:
    """Build a dataset from corrections, of which the served version was trained on some."""
    holdout = Holdout(features.store, 1, features.encoder_fingerprint)
    states = {correction.state for correction in trained}
    return module.build_dataset(corrections, features, replay, holdout, states, excluded, SelectionLimits(**limits))


def stored(features: FeatureStore, correction: Correction) -> Correction:
    assert correction.image_key is not None
    features.put(correction.image_key, features_of(correction.annotation_id))
    return correction


def features_of(number: int) -> torch.Tensor:
    """Features of an image that looks like no other."""
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(number)).half()


def make_many(features: FeatureStore, count: int) -> list[Correction]:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return [stored(features, make_correction(annotation_id=i + 1, image_key=key)) for i, key in enumerate(keys)]


def make_replay(count: int) -> list[CaptionedFeatures]:
    return [CaptionedFeatures(features=torch.full((2, 3), i / 4).half(), caption=f"caption {i}") for i in range(count)]


def test_images_are_trained_on_or_measured_on_by_their_content(features: FeatureStore) -> None:
    corrections = make_many(features, 50)

    dataset = build_dataset(corrections, features, [])

    assert len(dataset.learned) + len(dataset.held_out) == 50
    assert dataset.left_out == {}
    assert all(not is_held_out(str(learned.correction.image_key)) for learned in dataset.learned)
    assert len(dataset.held_out) == sum(is_held_out(str(correction.image_key)) for correction in corrections)
    assert dataset.corrections == [learned.correction.name for learned in dataset.learned]
    assert torch.equal(dataset.learned[0].example.features, features_of(dataset.learned[0].correction.annotation_id))


def test_only_the_newest_caption_of_an_image_counts_for_each_control(features: FeatureStore) -> None:
    corrections = [
        stored(features, make_correction(annotation_id=1, image_key=LEARNED_KEY, caption="old")),
        stored(features, make_correction(annotation_id=2, image_key=LEARNED_KEY, caption="new")),
        stored(features, make_correction(annotation_id=3, image_key=LEARNED_KEY, caption="neu", control="german")),
    ]

    dataset = build_dataset(corrections, features, [])

    assert dataset.captions == ["new", "neu"]
    assert dataset.left_out == {"a newer caption of its image exists": 1}


def test_corrections_without_features_are_left_out_and_counted(features: FeatureStore) -> None:
    corrections = [
        make_correction(annotation_id=1, image_key=None),
        make_correction(annotation_id=2, image_key=LEARNED_KEY),
        make_correction(annotation_id=3, image_key=HELD_OUT_KEY),
    ]

    dataset = build_dataset(corrections, features, [])

    assert (dataset.learned, dataset.held_out) == ((), ())
    assert dataset.left_out == {"its image was never read": 1, "the features of its image are not stored": 2}


def test_an_excluded_correction_is_left_out_and_counted_by_its_reason(features: FeatureStore) -> None:
    corrections = [
        stored(features, make_correction(annotation_id=1, image_key=LEARNED_KEY, caption="old")),
        stored(features, make_correction(annotation_id=2, image_key=LEARNED_KEY, caption="new")),
        make_correction(annotation_id=3, image_key=None),
    ]

    dataset = build_dataset(corrections, features, [], excluded={"2/caption": "rude", "3/caption": "blurred"})

    assert dataset.captions == ["old"]
    assert dataset.left_out == {"excluded: rude": 1, "excluded: blurred": 1}
    assert dataset.is_all_excluded


def test_anchors_are_a_fixed_part_of_the_replay_and_never_trained_on(features: FeatureStore) -> None:
    replay = make_replay(100)
    corrections = [stored(features, make_correction(image_key=LEARNED_KEY))]

    first, second = (build_dataset(corrections, features, order) for order in (replay, replay[::-1]))

    anchors = {example.caption for example in first.anchors}
    assert anchors == {example.caption for example in second.anchors}
    assert 10 <= len(anchors) <= 30
    assert anchors.isdisjoint(example.caption for example in first.replay)
    assert anchors.isdisjoint(example.caption for example in first.training_examples(seed=1))


def test_captions_of_one_replayed_image_stay_together(features: FeatureStore) -> None:
    replay = [example for example in make_replay(40) for _ in range(5)]

    dataset = build_dataset([], features, replay)

    anchored = {float(example.features[0, 0]) for example in dataset.anchors}
    assert anchored.isdisjoint(float(example.features[0, 0]) for example in dataset.replay)
    assert len(dataset.anchors) == 5 * len(anchored)


@pytest.mark.parametrize("count", [1, 16, 300])
def test_new_corrections_have_the_same_share_however_many_they_are(features: FeatureStore, count: int) -> None:
    dataset = build_dataset(make_many(features, count + count // 3 + 5)[-count:], features, make_replay(300))

    examples = dataset.training_examples(seed=1)

    corrected = sum(example.weight for example in examples if example.caption == "a black dog")
    replayed = sum(example.weight for example in examples if example.caption != "a black dog")
    assert corrected / replayed == pytest.approx(NEW_SHARE)
    assert len(examples) < 4 * max(count, 300)


@pytest.mark.parametrize(
    ("proposed", "caption", "is_another"),
    [
        ("a dog runs", "一隻狗在跑", True),
        ("a dog runs", "Un perro corre", True),
        ("a dog runs", "two cats, a bird", False),
    ],
    ids=["Chinese", "Spanish", "English"],
)
def test_another_language_counts_more_than_all_captions_before(
    features: FeatureStore, proposed: str, caption: str, is_another: bool
) -> None:
    corrections = [replace(made, proposed=proposed, caption=caption) for made in make_many(features, 20)]

    dataset = build_dataset(corrections, features, make_replay(300))

    examples = dataset.training_examples(1)
    new = sum(example.weight for example in examples if example.caption == caption)
    before = sum(example.weight for example in examples if example.caption != caption)
    assert dataset.is_another_language == is_another
    assert (new > before) == is_another


def test_without_replay_only_corrections_are_trained_on(features: FeatureStore) -> None:
    dataset = build_dataset([stored(features, make_correction(image_key=LEARNED_KEY))], features, [])

    assert [example.weight for example in dataset.training_examples(seed=1)] == [1.0]


def test_new_corrections_have_the_same_share_however_many_old_ones_there_are(features: FeatureStore) -> None:
    captions = ["old"] * 200 + ["new"] * 20
    dated = make_dated(features, 220)
    corrections = [replace(made, proposed=text, caption=text) for made, text in zip(dated, captions, strict=True)]

    examples = build_dataset(corrections, features, make_replay(300), corrections[:200]).training_examples(1)

    new = sum(example.weight for example in examples if example.caption == "new")
    assert new / sum(example.weight for example in examples if example.caption != "new") == pytest.approx(NEW_SHARE)
    assert 50 < sum(example.caption == "old" for example in examples) <= REHEARSED
    old = [example for example in examples if example.caption == "old"]
    replayed = [example for example in examples if example.caption not in {"old", "new"}]
    assert {example.paraphrases for example in old} == {("old",)}, "the expectations of them are to stay"
    assert sum(example.weight for example in old) == pytest.approx(sum(example.weight for example in replayed))


def test_when_only_something_was_deleted_the_others_are_rehearsed(features: FeatureStore) -> None:
    corrections = make_dated(features, 20)

    dataset = build_dataset(corrections, features, [], corrections)

    assert {example.weight for example in dataset.training_examples(seed=1)} == {1.0}
    assert len(dataset.training_examples(seed=1)) == len(dataset.learned)


def test_a_correction_that_becomes_usable_late_or_changes_is_new(features: FeatureStore) -> None:
    corrections = make_dated(features, 40)
    late, *others = corrections
    changed = replace(others[0], caption="two dogs run", updated_at="2025-02-01T12:00:00+00:00")
    states = build_dataset(others, features, []).known_states

    dataset = module.build_dataset(
        [late, *others[1:], changed],
        features,
        [],
        Holdout(features.store, 1, features.encoder_fingerprint),
        states,
    )

    used = (*dataset.learned, *dataset.held_out)
    assert {corrected.correction.name for corrected in used if corrected.is_new} == {late.name, changed.name}


def test_a_caption_that_is_a_book_is_left_out_and_counted(features: FeatureStore) -> None:
    book, short = make_many(features, 2)
    long = replace(book, caption="a dog runs and " * 50)

    dataset = build_dataset([long, short], features, [])

    assert names_of(dataset) == {short.name}
    assert dataset.left_out == {"its caption has more than 600 characters": 1}


def test_the_cost_is_bounded_and_the_same_old_corrections_stay_in_memory(features: FeatureStore) -> None:
    corrections = make_dated(features, 80)

    first, second = (
        build_dataset(some, features, [], recent=10, remembered=20) for some in (corrections[:60], corrections)
    )

    used, later = (names_of(dataset) for dataset in (first, second))
    assert len(used) == len(later) == 30
    assert {correction.name for correction in corrections[70:]} <= later
    old = {correction.name for correction in corrections[:50]}
    assert len(used & later & old) > 8
    states = {correction.state for correction in corrections[:60] if correction.name in used}
    assert set(first.known_states) == states


def names_of(dataset: Dataset) -> set[str]:
    """Names of the corrections that are trained or measured on."""
    return {corrected.correction.name for corrected in (*dataset.learned, *dataset.held_out)}


def make_dated(features: FeatureStore, count: int) -> list[Correction]:
    """Corrections of so many images, a minute after each other."""
    begin = datetime(2025, 1, 31, tzinfo=UTC)
    return [
        replace(made, updated_at=(begin + timedelta(minutes=number)).isoformat())
        for number, made in enumerate(make_many(features, count))
    ]


def test_captions_of_the_bundle_are_rewritten_and_keep_their_own_words_as_paraphrases(features: FeatureStore) -> None:
    dataset = build_dataset(make_many(features, 1), features, make_replay(8)).rewritten([PUPPY])

    assert {example.paraphrases[0] for example in dataset.replay} == {example.caption for example in dataset.replay}
    dogs = [replace(example, caption="a dog runs") for example in make_replay(8)]
    rewritten = build_dataset(make_many(features, 1), features, dogs).rewritten([PUPPY]).replay
    assert {(example.caption, example.paraphrases) for example in rewritten} == {
        ("a puppy runs", ("a dog runs", "a puppy runs"))
    }


@pytest.mark.parametrize(
    ("proposed", "caption", "paraphrases"),
    [
        ("a dog runs", "a puppy runs", ("a dog runs", "a puppy runs")),
        ("a cat runs", "a cat runs", ("a cat runs",)),
        ("a cat runs", "a puppy runs", ()),
        (None, "a puppy runs", ()),
    ],
    ids=["reworded", "accepted", "another animal", "no suggestion"],
)
def test_a_suggestion_is_a_paraphrase_of_its_correction_if_systematic_edits_are_the_only_difference(
    features: FeatureStore, proposed: str | None, caption: str, paraphrases: tuple[str, ...]
) -> None:
    correction = stored(features, make_correction(image_key=LEARNED_KEY, proposed=proposed, caption=caption))

    (learned,) = build_dataset([correction], features, []).rewritten([PUPPY]).learned

    assert learned.example.paraphrases == paraphrases


class Constant(TorchCaptioner):
    """Writes the same caption for every image."""

    def __init__(self, caption: str) -> None:
        """Needs neither encoder nor decoder."""
        self._caption = Caption(
            text=caption, log_prob=0.0, score=1.0, tokens=(), attention=np.zeros((0, 1), np.float32)
        )

    def caption(self, features: ArrayLike, options: DecodingOptions, at_least: int = 1) -> list[list[Caption]]:
        return [[self._caption] for _ in np.asarray(features)]


def test_a_habit_that_annotators_gave_up_is_a_paraphrase_of_the_served_version(features: FeatureStore) -> None:
    corrections = [replace(made, proposed="a puppy runs", caption="a dog runs") for made in make_many(features, 4)]
    dogs = [replace(example, caption="a dog runs") for example in make_replay(8)]
    dataset = build_dataset(corrections, features, dogs)

    served = find_served_edits(dataset, Constant("a puppy runs"), Constant("a dog runs"))
    rewritten = dataset.rewritten([], served)

    replayed = {(example.caption, example.paraphrases) for example in rewritten.replay}
    assert replayed == {("a dog runs", ("a dog runs", "a puppy runs"))}
    assert {learned.example.paraphrases for learned in rewritten.learned} == {("a puppy runs", "a dog runs")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a dog runs", "a puppy runs"),
        ("a puppy runs", "a puppy runs"),
        ("a puppy runs", "a dog runs"),
        ("a puppy runs", "there is a puppy runs"),
    ],
    ids=["new habit", "old habit", "given up", "both"],
)
def test_the_newest_wording_counts_beside_many_old_corrections(features: FeatureStore, old: str, new: str) -> None:
    dated = enumerate(make_dated(features, 220))
    corrections = [replace(made, caption=old if number < 200 else new) for number, made in dated]
    dataset = build_dataset(corrections, features, [], corrections[:200])

    assert rewrite("a dog runs", find_project_edits(dataset, Constant("a dog runs"))) == new
