"""The captioner that serves each project: loaded once, replaced when a version is published."""

import logging
import threading
from pathlib import Path

import pytest

from backend.captioning.serving_versions import ServingCaptioners
from model.bundle import load_bundle
from model.errors import BundleError, StoreError
from model.manifest import bundle_version
from model.registry import ModelRegistry, ModelVersion
from model.runtime.serving_bundle import LoadedBundle, load_serving_bundle
from model.store import Store
from tests.factories import write_bundle


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bundle_folder(tmp_path: Path) -> str:
    return str(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def registry(tmp_path: Path, bundle_folder: str) -> ModelRegistry:
    return ModelRegistry(Store(tmp_path / "store"), bundle_version(bundle_folder))


@pytest.fixture
def captioners(bundle_folder: str, registry: ModelRegistry, clock: Clock) -> ServingCaptioners:
    return ServingCaptioners(bundle_folder, registry, loaded=2, clock=clock)


def publish(registry: ModelRegistry, bundle_folder: str, project_id: int) -> ModelVersion:
    """Publish the bundle's own decoder as a new version."""
    parent = registry.serving(project_id)
    captioner = load_bundle(bundle_folder).captioner()
    return registry.publish(project_id, captioner, parent=parent, metrics={}, corrections=(), decision="better")


def test_the_version_is_known_before_any_weights_are_loaded(
    captioners: ServingCaptioners, registry: ModelRegistry
) -> None:
    assert captioners.version_of(1) == registry.base_version
    assert not captioners.is_loaded


def test_the_bundle_is_loaded_once_for_all_threads(
    captioners: ServingCaptioners, bundle_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def count(name: str) -> LoadedBundle:
        loaded.append(name)
        return load_serving_bundle(name)

    monkeypatch.setattr("backend.captioning.serving_versions.load_serving_bundle", count)
    threads = [threading.Thread(target=captioners.captioner_for, args=(number,)) for number in range(4)]

    for thread in threads:
        thread.start()
    for thread in [*threads, captioners.start_loading()]:
        thread.join()

    assert loaded == [bundle_folder]
    assert captioners.is_loaded


def test_projects_without_a_version_of_their_own_share_the_bundles_captioner(captioners: ServingCaptioners) -> None:
    assert captioners.captioner_for(1) is captioners.captioner_for(2)


def test_a_published_version_serves_within_a_second(
    captioners: ServingCaptioners, registry: ModelRegistry, bundle_folder: str, clock: Clock
) -> None:
    before = captioners.captioner_for(1)
    version = publish(registry, bundle_folder, 1)

    clock.now = 0.99
    assert captioners.captioner_for(1) is before
    clock.now = 1.0
    after = captioners.captioner_for(1)

    assert after.version == captioners.version_of(1) == version.name
    assert captioners.captioner_for(2) is before


def test_the_pointer_is_read_at_most_once_a_second(
    captioners: ServingCaptioners, registry: ModelRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def note(project_id: int) -> str:
        read.append(project_id)
        return registry.base_version

    monkeypatch.setattr(registry, "serving", note)

    for moment in (0.0, 0.5, 0.9, 1.5, 1.6):
        clock.now = moment
        captioners.version_of(7)

    assert read == [7, 7]


def test_only_recently_used_captioners_stay_in_memory(
    captioners: ServingCaptioners, registry: ModelRegistry, bundle_folder: str
) -> None:
    for project_id in (1, 2, 3, 4):
        publish(registry, bundle_folder, project_id)
    first = captioners.captioner_for(1)
    for project_id in (2, 3):
        captioners.captioner_for(project_id)

    assert captioners.captioner_for(1) is first
    captioners.captioner_for(4)
    captioners.captioner_for(2)
    captioners.captioner_for(3)
    assert captioners.captioner_for(1) is not first


def test_while_the_store_does_not_answer_the_last_known_version_serves(
    captioners: ServingCaptioners,
    registry: ModelRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: int) -> str:
        raise StoreError("away")

    captioners.version_of(1)
    monkeypatch.setattr(registry, "serving", fail)
    clock.now = 5.0

    with caplog.at_level(logging.WARNING):
        assert captioners.version_of(1) == registry.base_version

    assert "problem=away" in caplog.text
    with pytest.raises(StoreError):
        captioners.version_of(2)


def test_a_damaged_bundle_is_reported_when_it_is_loaded_and_at_each_prediction(
    captioners: ServingCaptioners, bundle_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(bundle_folder) / "encoder.safetensors").write_bytes(b"damaged")

    captioners.start_loading().join()

    assert "bundle not loaded" in caplog.text
    assert not captioners.is_loaded
    with pytest.raises(BundleError, match=r"encoder\.safetensors"):
        captioners.captioner_for(1)
