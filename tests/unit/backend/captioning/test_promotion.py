from pathlib import Path

import pytest

from backend.captioning.promotion import open_registry, promote_version, roll_back, version_lines
from model.errors import VersionChoiceError
from model.registry import ModelVersion
from tests.factories import changed_settings, make_bundle
from worker.settings import Settings

PROJECT = 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_bundle(tmp_path / "bundle")
    return Settings(
        caption_bundle=str(tmp_path / "bundle"),
        model_store=str(tmp_path / "store"),
        redis_url="redis://127.0.0.1:1/0",  # refuses
        refresh_predictions=False,
    )


@pytest.fixture
def version(settings: Settings, tmp_path: Path) -> ModelVersion:
    candidate = make_bundle(tmp_path / "other", seed=1).captioner()
    registry = open_registry(settings)
    return registry.publish(
        PROJECT, candidate, parent=registry.base_version, metrics={}, corrections=["1", "2"], decision="better: 1 < 2"
    )


def test_the_serving_version_is_marked(settings: Settings, version: ModelVersion) -> None:
    bundle, retrained = version_lines(open_registry(settings), PROJECT)

    assert bundle.startswith(f"  {version.parent}")
    assert retrained.startswith(f"* {version.name}")
    assert "2 corrections; published: better: 1 < 2" in retrained


def test_the_bundle_can_serve_again(settings: Settings, version: ModelVersion) -> None:
    message = promote_version(settings, PROJECT, version.parent, by="test")

    assert open_registry(settings).serving(PROJECT) == version.parent
    assert message.startswith(f"{version.parent} serves project {PROJECT}")


def test_rolling_back_serves_the_version_before(settings: Settings, version: ModelVersion) -> None:
    message = roll_back(settings, PROJECT, by="test")

    assert open_registry(settings).serving(PROJECT) == version.parent
    assert message.startswith(f"{version.parent} serves project {PROJECT} again")


def test_an_unknown_version_is_refused_with_those_there_are(settings: Settings, version: ModelVersion) -> None:
    with pytest.raises(VersionChoiceError, match=version.name):
        promote_version(settings, PROJECT, "v9-00000000", by="test")


def test_another_version_serves_even_while_redis_is_away(settings: Settings, version: ModelVersion) -> None:
    message = roll_back(changed_settings(settings, refresh_predictions=True), PROJECT, by="test")

    assert open_registry(settings).serving(PROJECT) == version.parent
    assert "not refreshed, because Redis does not answer" in message
