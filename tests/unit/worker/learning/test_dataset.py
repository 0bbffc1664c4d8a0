import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from model.store import Store
from model.training.teacher_forcing import CaptionedFeatures
from model.vision.features import FeatureStore
from tests.factories import make_correction
from worker.feedback import selection
from worker.feedback.corrections import Correction
from worker.learning import dataset as module
from worker.learning.dataset import NEW_SHARE, Dataset
from worker.learning.holdout import Holdout
from worker.learning.wording_rules import SystematicEdit, restate
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
    known: Sequence[Correction] = (),
    set_aside: dict[str, str] | None = None,
) -> Dataset:
    holdout = Holdout(features.store, 1, features.encoder_fingerprint)
    states = {correction.state for correction in known}
    return module.build_dataset(corrections, features, replay, holdout, states, set_aside)


def stored(features: FeatureStore, correction: Correction) -> Correction:
    assert correction.image_key is not None
    features.put(correction.image_key, looks_of(correction.annotation_id))
    return correction


def looks_of(number: int) -> torch.Tensor:
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
    assert torch.equal(dataset.learned[0].example.features, looks_of(dataset.learned[0].correction.annotation_id))


def test_of_one_image_the_newest_caption_counts_and_each_control_for_itself(features: FeatureStore) -> None:
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


def test_what_is_set_aside_is_left_out_and_counted_by_its_reason(features: FeatureStore) -> None:
    corrections = [
        stored(features, make_correction(annotation_id=1, image_key=LEARNED_KEY, caption="old")),
        stored(features, make_correction(annotation_id=2, image_key=LEARNED_KEY, caption="new")),
        make_correction(annotation_id=3, image_key=None),
    ]

    dataset = build_dataset(corrections, features, [], set_aside={"2/caption": "rude", "3/caption": "blurred"})

    assert dataset.captions == ["old"]
    assert dataset.left_out == {"set aside: rude": 1, "set aside: blurred": 1}
    assert dataset.is_set_aside


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
def test_corrections_count_as_much_as_all_else_however_many_they_are(features: FeatureStore, count: int) -> None:
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
def test_another_language_counts_more_than_all_that_was_said_before(
    features: FeatureStore, proposed: str, caption: str, is_another: bool
) -> None:
    corrections = [replace(one, proposed=proposed, caption=caption) for one in make_many(features, 20)]

    dataset = build_dataset(corrections, features, make_replay(300))

    examples = dataset.training_examples(1)
    new = sum(example.weight for example in examples if example.caption == caption)
    before = sum(example.weight for example in examples if example.caption != caption)
    assert dataset.is_another_language == is_another
    assert (new > before) == is_another


def test_without_replay_the_corrections_are_all_there_is(features: FeatureStore) -> None:
    dataset = build_dataset([stored(features, make_correction(image_key=LEARNED_KEY))], features, [])

    assert [example.weight for example in dataset.training_examples(seed=1)] == [1.0]


def test_new_corrections_count_as_much_however_many_old_ones_there_are(features: FeatureStore) -> None:
    captions = ["old"] * 200 + ["new"] * 20
    dated = make_dated(features, 220)
    corrections = [replace(one, proposed=said, caption=said) for one, said in zip(dated, captions, strict=True)]

    examples = build_dataset(corrections, features, make_replay(300), corrections[:200]).training_examples(1)

    new = sum(example.weight for example in examples if example.caption == "new")
    assert new / sum(example.weight for example in examples if example.caption != "new") == pytest.approx(NEW_SHARE)
    assert 50 < sum(example.caption == "old" for example in examples) <= module.REHEARSED
    old, replayed = ([one for one in examples if (one.caption == "old") is is_old] for is_old in (True, False))
    replayed = [one for one in replayed if one.caption != "new"]
    assert {one.wordings for one in old} == {("old",)}, "what is expected of them is kept"
    assert sum(one.weight for one in old) == pytest.approx(sum(one.weight for one in replayed))


def test_when_only_something_was_deleted_the_others_are_rehearsed(features: FeatureStore) -> None:
    corrections = make_dated(features, 20)

    dataset = build_dataset(corrections, features, [], corrections)

    assert {example.weight for example in dataset.training_examples(seed=1)} == {1.0}
    assert len(dataset.training_examples(seed=1)) == len(dataset.learned)


def test_what_becomes_usable_late_is_new_and_so_is_what_changed(features: FeatureStore) -> None:
    corrections = make_dated(features, 40)
    late, *others = corrections
    changed = replace(others[0], caption="two dogs run", updated_at="2025-02-01T12:00:00+00:00")
    known = build_dataset(others, features, []).known_states

    dataset = module.build_dataset(
        [late, *others[1:], changed],
        features,
        [],
        Holdout(features.store, 1, features.encoder_fingerprint),
        known,
    )

    used = (*dataset.learned, *dataset.held_out)
    assert {one.correction.name for one in used if one.is_new} == {late.name, changed.name}


def test_a_caption_that_is_a_book_is_left_out_and_counted(features: FeatureStore) -> None:
    book, short = make_many(features, 2)
    long = replace(book, caption="a dog runs and " * 50)

    dataset = build_dataset([long, short], features, [])

    assert [one.correction.name for one in (*dataset.learned, *dataset.held_out)] == [short.name]
    assert dataset.left_out == {"its caption has more than 600 characters": 1}


def test_the_cost_is_bounded_and_of_old_corrections_the_same_ones_stay_in_memory(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "RECENT", 10)
    monkeypatch.setattr(selection, "REMEMBERED", 20)
    corrections = make_dated(features, 80)

    first, second = (build_dataset(some, features, []) for some in (corrections[:60], corrections))

    used, later = ({one.correction.name for one in (*some.learned, *some.held_out)} for some in (first, second))
    assert len(used) == len(later) == 30
    assert {one.name for one in corrections[70:]} <= later
    old = {one.name for one in corrections[:50]}
    assert len(used & later & old) > 8
    assert set(first.known_states) == {one.state for one in corrections[:60] if one.name in used}


def make_dated(features: FeatureStore, count: int) -> list[Correction]:
    """Corrections of so many images, a minute after each other."""
    begin = datetime(2025, 1, 31, tzinfo=UTC)
    return [
        replace(one, updated_at=(begin + timedelta(minutes=number)).isoformat())
        for number, one in enumerate(make_many(features, count))
    ]


def test_what_the_bundle_said_is_reworded_and_known_in_its_own_words(features: FeatureStore) -> None:
    dataset = build_dataset(make_many(features, 1), features, make_replay(8)).restated([PUPPY])

    assert {example.wordings[0] for example in dataset.replay} == {example.caption for example in dataset.replay}
    dogs = [replace(example, caption="a dog runs") for example in make_replay(8)]
    reworded = build_dataset(make_many(features, 1), features, dogs).restated([PUPPY]).replay
    assert {(example.caption, example.wordings) for example in reworded} == {
        ("a puppy runs", ("a dog runs", "a puppy runs"))
    }


@pytest.mark.parametrize(
    ("proposed", "caption", "wordings"),
    [
        ("a dog runs", "a puppy runs", ("a dog runs", "a puppy runs")),
        ("a cat runs", "a cat runs", ("a cat runs",)),
        ("a cat runs", "a puppy runs", ()),
        (None, "a puppy runs", ()),
    ],
    ids=["reworded", "accepted", "another animal", "no suggestion"],
)
def test_of_a_correction_is_known_what_the_wording_of_the_project_explains(
    features: FeatureStore, proposed: str | None, caption: str, wordings: tuple[str, ...]
) -> None:
    one = stored(features, make_correction(image_key=LEARNED_KEY, proposed=proposed, caption=caption))

    (learned,) = build_dataset([one], features, []).restated([PUPPY]).learned

    assert learned.example.wordings == wordings


class Says(Captioner):
    """Says the same of every image."""

    def __init__(self, caption: str) -> None:
        """Needs neither encoder nor decoder."""
        self._said = Caption(text=caption, log_prob=0.0, score=1.0, tokens=(), attention=torch.zeros(0))

    def caption(self, features: torch.Tensor, options: DecodingOptions) -> list[list[Caption]]:
        return [[self._said] for _ in features]


def test_a_habit_that_annotators_gave_up_is_known_as_a_wording_of_the_serving_version(features: FeatureStore) -> None:
    corrections = [replace(one, proposed="a puppy runs", caption="a dog runs") for one in make_many(features, 4)]
    dogs = [replace(example, caption="a dog runs") for example in make_replay(8)]
    dataset = build_dataset(corrections, features, dogs)

    served = module.find_served_wording(dataset, Says("a puppy runs"), Says("a dog runs"))
    found = dataset.restated([], served)

    assert {(one.caption, one.wordings) for one in found.replay} == {("a dog runs", ("a dog runs", "a puppy runs"))}
    assert {one.example.wordings for one in found.learned} == {("a puppy runs", "a dog runs")}


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
    corrections = [replace(one, caption=old if i < 200 else new) for i, one in enumerate(make_dated(features, 220))]
    dataset = build_dataset(corrections, features, [], corrections[:200])

    assert restate("a dog runs", module.find_wording(dataset, Says("a dog runs"))) == new
