"""The wording of a project, learned by its memory from corrections in a real Redis."""

from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from backend.captioning.memory import ProjectMemory, Request, Serving
from backend.captioning.project_style import switch_rule
from backend.images.task_images import TaskImage
from backend.protocol.label_config import CaptionControl
from backend.protocol.predictions import SuggestedCaption
from model.bundle import Bundle
from model.decoders.search import DecodingOptions
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.vision.features import FeatureStore
from tests.factories import make_bundle, make_correction, make_image, store_annotation

OPTIONS = DecodingOptions(beam_size=1)
COLORS = ("red", "green", "blue", "white")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", seed=6)


@pytest.fixture
def features(bundle: Bundle, tmp_path: Path) -> FeatureStore:
    return FeatureStore(Store(tmp_path / "store"), bundle.encoder.fingerprint)


@pytest.fixture
def memory(redis: Redis, bundle: Bundle, features: FeatureStore) -> ProjectMemory:
    return make_memory(redis, bundle, features)


def make_memory(redis: Redis, bundle: Bundle, features: FeatureStore) -> ProjectMemory:
    return ProjectMemory(redis, 1, bundle.space, features, lambda *_: None)


def correct(redis: Redis, features: FeatureStore, captioner: TorchCaptioner, count: int) -> None:
    """Let annotators write "a photo of" before what the decoder suggests."""
    encoded = captioner.encode([make_image(color) for color in COLORS])
    written = captioner.caption(encoded, OPTIONS)
    for number, (values, captions) in enumerate(zip(encoded[:count], written, strict=False), start=1):
        features.put(f"{number:064x}", values)
        caption = f"a photo of {captions[0].text}"
        store_annotation(
            redis, make_correction(annotation_id=number, image_key=f"{number:064x}", proposed="a dog", caption=caption)
        )


def suggested(memory: ProjectMemory, captioner: TorchCaptioner) -> list[str]:
    memory.prepare(Serving(captioner=captioner, options=OPTIONS, trained_states=frozenset))
    caption = SuggestedCaption(text="Two squares", score=0.5, own_score=0.5)
    others = [caption, replace(caption, text="a photo of two squares"), replace(caption, text="a circle")]
    control = CaptionControl(from_name="caption", to_name="image", image_field="captioning")
    features = captioner.encode([make_image("black")])[0]
    image = TaskImage(control=control, image_ref="/black.png", image_key="f" * 64, features=features)
    [recalled] = memory.recall([Request(task_id=99, image=image, decoded=others)], captioner.version, 3)
    return [caption.text for caption in recalled]


def test_the_third_correction_changes_the_wording_of_suggestions_before_the_memory_opens(
    redis: Redis, memory: ProjectMemory, bundle: Bundle, features: FeatureStore
) -> None:
    captioner = bundle.captioner()
    correct(redis, features, captioner, 2)
    before = suggested(memory, captioner)

    correct(redis, features, captioner, 3)

    assert before == ["Two squares", "a photo of two squares", "a circle"]
    assert suggested(memory, captioner) == ["a photo of two squares", "a photo of a circle"]
    assert memory.label(captioner.version) != captioner.version


def test_a_rule_that_a_person_switched_off_is_not_applied(
    redis: Redis, memory: ProjectMemory, bundle: Bundle, features: FeatureStore
) -> None:
    captioner = bundle.captioner()
    correct(redis, features, captioner, 4)
    before = suggested(memory, captioner)

    switch_rule(redis, 1, "begins with: a photo of", is_off=True)

    assert before[0] == "a photo of two squares"
    assert suggested(memory, captioner)[0] == "Two squares"


def test_another_process_reads_the_wording_from_redis(
    redis: Redis, memory: ProjectMemory, bundle: Bundle, features: FeatureStore
) -> None:
    captioner = bundle.captioner()
    correct(redis, features, captioner, 4)
    suggested(memory, captioner)

    elsewhere = make_memory(redis, bundle, features)

    assert suggested(elsewhere, captioner)[0] == "a photo of two squares"
