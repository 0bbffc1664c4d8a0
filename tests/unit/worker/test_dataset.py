import hashlib
from pathlib import Path

import pytest
import torch

from model.store import Store
from model.training.captions import CaptionedFeatures
from model.vision.features import FeatureStore
from tests.factories import make_correction
from worker import dataset as module
from worker.corrections import Correction
from worker.dataset import CORRECTION_SHARE, build_dataset
from worker.policy import is_held_out

LEARNED_KEY = "00000001" + "a" * 56
HELD_OUT_KEY = "00000005" + "a" * 56


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    return FeatureStore(Store(tmp_path), "0123456789ab")


def stored(features: FeatureStore, correction: Correction) -> Correction:
    assert correction.image_key is not None
    features.put(correction.image_key, torch.full((2, 3), float(correction.annotation_id)))
    return correction


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
    assert torch.equal(
        dataset.learned[0].example.features,
        torch.full((2, 3), float(dataset.learned[0].correction.annotation_id), dtype=torch.float16),
    )


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
def test_corrections_count_more_than_replay_in_the_whole_loss(features: FeatureStore, count: int) -> None:
    dataset = build_dataset(make_many(features, count + count // 3 + 5)[-count:], features, make_replay(300))

    examples = dataset.training_examples(seed=1)

    corrected = sum(example.weight for example in examples if example.caption == "a black dog")
    replayed = sum(example.weight for example in examples if example.caption != "a black dog")
    assert corrected / replayed == pytest.approx(CORRECTION_SHARE)
    assert len(examples) < 4 * max(count, 300)


def test_without_replay_the_corrections_are_all_there_is(features: FeatureStore) -> None:
    dataset = build_dataset([stored(features, make_correction(image_key=LEARNED_KEY))], features, [])

    assert [example.weight for example in dataset.training_examples(seed=1)] == [1.0]


def test_the_cost_is_bounded_and_the_newest_count(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CORRECTIONS", 10)
    monkeypatch.setattr(module, "MAX_HELD_OUT", 2)
    corrections = make_many(features, 60)

    dataset = build_dataset(corrections, features, make_replay(100))

    assert len(dataset.learned) == 10
    assert len(dataset.held_out) == len(dataset.anchors) == 2
    assert dataset.learned[-1].correction == [c for c in corrections if not is_held_out(str(c.image_key))][-1]
