import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from model.bundle import Bundle
from model.decoders.search import DecodingOptions
from model.errors import ModelVersionError, VersionChoiceError
from model.registry import ModelRegistry, ModelVersion
from model.store import Store
from model.torch_captioner import TorchCaptioner
from tests.factories import make_bundle, make_decoder, make_image


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def registry(tmp_path: Path, bundle: Bundle) -> ModelRegistry:
    return ModelRegistry(Store(str(tmp_path / "store")), bundle.version)


def candidate(bundle: Bundle, seed: int) -> TorchCaptioner:
    decoder = make_decoder(bundle.encoder.feature_size, seed=seed)
    return TorchCaptioner(bundle.encoder, decoder, bundle.tokenizer, "candidate")


def publish(registry: ModelRegistry, bundle: Bundle, project_id: int = 1, seed: int = 1) -> ModelVersion:
    return registry.publish(
        project_id,
        candidate(bundle, seed),
        parent=registry.serving(project_id),
        metrics={"held_out": {"candidate": 1.0, "serving": 2.0}},
        corrections=["17"],
        decision="better on 4 held-out captions",
    )


def test_a_project_without_versions_is_served_by_the_bundle(registry: ModelRegistry, bundle: Bundle) -> None:
    assert registry.serving(1) == bundle.version
    assert registry.versions(1) == []
    assert registry.load(1, bundle.version, bundle).version == bundle.version


def test_a_published_version_serves_and_captions_as_it_was_trained(registry: ModelRegistry, bundle: Bundle) -> None:
    version = publish(registry, bundle)

    assert registry.serving(1) == version.name
    assert registry.versions(1) == [version]
    assert (version.parent, version.corrections) == (bundle.version, ("17",))
    loaded, trained = registry.load(1, version.name, bundle), candidate(bundle, 1)
    features = loaded.encode([make_image()])
    options = DecodingOptions(max_tokens=5)
    assert loaded.caption(features, options)[0][0].log_prob == trained.caption(features, options)[0][0].log_prob


def test_a_first_version_is_published_without_a_word_about_damage(
    registry: ModelRegistry, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, bundle)

    assert registry.succeeded(1) == bundle.version
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("is_of_another_bundle", [False, True])
def test_where_the_pointer_is_missing_the_newest_version_of_the_bundle_serves(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path, is_of_another_bundle: bool
) -> None:
    publish(registry, bundle, seed=1)
    newest = publish(registry, bundle, seed=2).name
    (tmp_path / "store" / "projects" / "1" / "serving.json").unlink()
    base = "another-0a1b2c3d" if is_of_another_bundle else bundle.version

    opened = ModelRegistry(Store(str(tmp_path / "store")), base)

    assert opened.serving(1) == (base if is_of_another_bundle else newest)
    assert bool(opened.damages(1)) != is_of_another_bundle


def test_projects_never_mix(registry: ModelRegistry, bundle: Bundle) -> None:
    version = publish(registry, bundle, project_id=1)

    assert registry.serving(2) == bundle.version
    with pytest.raises(ModelVersionError, match="project 2 has no version"):
        registry.load(2, version.name, bundle)


def test_rollback_goes_back_one_version_at_a_time(registry: ModelRegistry, bundle: Bundle) -> None:
    first = publish(registry, bundle, seed=1)
    second = publish(registry, bundle, seed=2)

    assert registry.serving(1) == second.name
    assert registry.rollback(1, by="admin") == first.name
    assert registry.rollback(1, by="admin") == bundle.version
    assert registry.serving(1) == bundle.version
    with pytest.raises(VersionChoiceError, match="no earlier version"):
        registry.rollback(1, by="admin")


def test_promote_lets_any_published_version_serve_again(registry: ModelRegistry, bundle: Bundle) -> None:
    first = publish(registry, bundle, seed=1)
    publish(registry, bundle, seed=2)

    registry.promote(1, first.name, by="admin", bundle=lambda: bundle)

    assert registry.serving(1) == first.name


def test_a_refused_version_is_recorded_but_never_serves(registry: ModelRegistry, bundle: Bundle) -> None:
    refused = registry.refuse(
        1,
        candidate(bundle, 1),
        parent=bundle.version,
        metrics={},
        corrections=["17"],
        decision="worse on 4 held-out captions",
    )

    assert registry.serving(1) == bundle.version
    assert [(v.name, v.published, v.decision) for v in registry.versions(1)] == [
        (refused.name, False, "worse on 4 held-out captions")
    ]
    with pytest.raises(VersionChoiceError, match="was refused"):
        registry.promote(1, refused.name, by="admin", bundle=lambda: bundle)


def test_a_version_that_a_person_chooses_at_the_last_moment_goes_on_serving(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path
) -> None:
    first, second = publish(registry, bundle, seed=1), publish(registry, bundle, seed=2)

    class StoreWhilePromoting(Store):
        def write(self, path: str, content: bytes) -> None:
            if path.endswith("decoder.safetensors"):
                registry.promote(1, first.name, by="admin", bundle=lambda: bundle)
            super().write(path, content)

    third = publish(ModelRegistry(StoreWhilePromoting(str(tmp_path / "store")), bundle.version), bundle, seed=3)

    assert registry.serving(1) == first.name
    assert (third.parent, third.published) == (second.name, False)
    assert third.decision.startswith(f"{first.name} was chosen to serve meanwhile")
    assert registry.versions(1)[-1] == third
    with pytest.raises(ModelVersionError, match="was refused"):
        registry.promote(1, third.name, by="admin", bundle=lambda: bundle)


def test_an_unknown_version_lists_those_there_are(registry: ModelRegistry, bundle: Bundle) -> None:
    version = publish(registry, bundle)

    with pytest.raises(VersionChoiceError, match=f"it has: {bundle.version}, {version.name}"):
        registry.promote(1, "v9-00000000", by="admin", bundle=lambda: bundle)


@pytest.mark.parametrize("spelled", ["{}/", "./{}", "{}/../{}", "", "."])
def test_a_path_to_a_version_is_not_its_name(registry: ModelRegistry, bundle: Bundle, spelled: str) -> None:
    version = publish(registry, bundle)

    with pytest.raises(VersionChoiceError, match="has no version"):
        registry.promote(1, spelled.format(version.name, version.name), by="admin", bundle=lambda: bundle)
    assert registry.serving(1) == version.name


def test_damaged_weights_are_reported(registry: ModelRegistry, bundle: Bundle, tmp_path: Path) -> None:
    version = publish(registry, bundle)
    next((tmp_path / "store").rglob("decoder.safetensors")).write_bytes(b"half")

    with pytest.raises(ModelVersionError, match="missing or damaged"):
        registry.load(1, version.name, bundle)


def test_versions_of_another_bundle_do_not_serve(registry: ModelRegistry, bundle: Bundle, tmp_path: Path) -> None:
    version = publish(registry, bundle)
    other = make_bundle(tmp_path / "other", seed=9)
    newer = ModelRegistry(Store(str(tmp_path / "store")), other.version)

    assert newer.serving(1) == other.version
    with pytest.raises(ModelVersionError, match="was trained on bundle"):
        newer.load(1, version.name, other)
    with pytest.raises(VersionChoiceError, match="was trained on bundle"):
        newer.promote(1, version.name, by="admin", bundle=lambda: other)
    assert newer.serving(1) == other.version


def test_a_version_of_another_bundle_serves_beside_the_same_encoder(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path
) -> None:
    version = publish(registry, bundle)
    renamed = replace(bundle, name="renamed")
    newer = ModelRegistry(Store(str(tmp_path / "store")), renamed.version)

    newer.promote(1, version.name, by="admin", bundle=lambda: renamed)

    assert newer.serving(1) == version.name
    assert newer.load(1, version.name, renamed).version == version.name


def test_the_newest_version_is_the_last_retraining_published_or_refused(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path
) -> None:
    assert registry.newest(7) is None
    made = [publish(registry, bundle, project_id=7) for _ in range(11)]
    (tmp_path / "store" / "projects" / "7" / "versions" / "v12-unfinished").mkdir()

    newest = registry.newest(7)

    assert newest is not None
    assert newest.name == made[-1].name
    assert newest.name.startswith("v11-")


def test_a_damaged_version_does_not_affect_others_and_no_number_is_used_twice(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path
) -> None:
    first, second, _ = (publish(registry, bundle, seed=seed) for seed in (1, 2, 3))
    versions = tmp_path / "store" / "projects" / "1" / "versions"
    shutil.rmtree(versions / first.name)
    (versions / second.name / "version.json").write_text("half")

    assert publish(registry, bundle, seed=4).name.startswith("v4-")


def test_the_weights_of_old_versions_are_deleted_and_those_that_may_serve_again_are_not(
    registry: ModelRegistry, bundle: Bundle, tmp_path: Path
) -> None:
    names = [publish(registry, bundle, seed=seed).name for seed in range(1, 7)]
    registry.promote(1, names[0], by="a person", bundle=lambda: bundle)
    registry.promote(1, names[5], by="a person", bundle=lambda: bundle)

    pruned = registry.prune(1, keep=2)

    assert pruned == names[1:4]
    assert [version.pruned for version in registry.versions(1)] == [False, True, True, True, False, False]
    assert [registry.is_whole(1, name) for name in names] == [True, False, False, False, True, True]
    with pytest.raises(VersionChoiceError, match="deleted to save space"):
        registry.promote(1, names[2], by="a person", bundle=lambda: bundle)
    assert registry.prune(1, keep=2) == []
    assert registry.damages(1) == []


def test_going_back_passes_over_versions_whose_weights_are_gone(registry: ModelRegistry, bundle: Bundle) -> None:
    names = [publish(registry, bundle, seed=seed).name for seed in range(1, 6)]
    registry.prune(1, keep=2)

    gone_back_to = [registry.rollback(1, by="a person") for _ in range(3)]

    assert gone_back_to == [names[3], names[2], registry.base_version]
