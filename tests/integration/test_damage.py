"""Damaged files of a project in the model store: predictions and trainings go on, the pages name the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.captioning.serving_versions import ServingCaptioners
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.registry import ModelRegistry
from model.store import Store
from tests.backend_client import LABEL_CONFIG, BackendClient
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.workplace import Workplace
from worker import jobs
from worker.feedback.score_calibration import UNJUDGED, write_calibration
from worker.learning.holdout import Holdout

NESTED = b"[" * 100_000 + b"]" * 100_000
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "other JSON": lambda _: b'{"version": {"a": [1]}, "metrics": 7, "sizes": null, "judged": "x", "before": 3}',
    "a list": lambda _: b"[1, 2, 3]",
    "a number": lambda _: b"7",
    "nested": lambda _: NESTED,
    "gone": lambda _: None,
}
TRAINED_AFTER = ("other JSON", "nested")
"""Damages after which a training is tried; each takes seconds."""
OF_VERSION = ("version.json", "decoder.json", "decoder.safetensors")
OF_PROJECT = ("serving.json", "holdout.json", "calibration.json", "calibration-of-memory.json")


@pytest.fixture
def in_this_process(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    for name, value in workplace.environment().items():
        monkeypatch.setenv(name, value)
    return workplace


@pytest.fixture
def store(in_this_process: Workplace) -> Path:
    """The folder of the model store; project 1 has two versions, project 2 has one."""
    for project_id, seed in ((1, 1), (1, 2), (2, 3)):
        in_this_process.registry.publish(
            project_id,
            in_this_process.bundle.captioner(),
            parent=in_this_process.registry.serving(project_id),
            metrics={"number": seed},
            corrections=[],
            decision="it is better",
        )
    for project_id in (1, 2):
        for of_memory in (False, True):
            write_calibration(Store(in_this_process.settings.model_store), project_id, UNJUDGED, of_memory=of_memory)
    replay = in_this_process.bundle.replay
    images = {f"{number:064x}": example.features for number, example in enumerate(replay)}
    place = Store(in_this_process.settings.model_store)
    Holdout(place, 1, in_this_process.bundle.encoder.fingerprint).decide(images)
    return Path(in_this_process.settings.model_store)


def damage(file: Path, how: str) -> None:
    content = DAMAGES[how](file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def captions(workplace: Workplace, project_id: int) -> str:
    """Caption a picture as a backend does that has just started; return the version that did."""
    registry = ModelRegistry.open(workplace.settings.model_store, workplace.settings.caption_bundle)
    captioners = ServingCaptioners(workplace.settings.caption_bundle, registry)
    captioner = captioners.captioner_for(project_id)
    features = captioner.encode([workplace.picture(1)])
    assert captioner.caption(features, DecodingOptions())
    assert captioners.version_of(project_id) == captioner.version
    return captioner.version


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", [*OF_VERSION, *OF_PROJECT])
def test_predictions_and_trainings_go_on_and_other_projects_notice_nothing(
    in_this_process: Workplace, store: Path, file: str, how: str
) -> None:
    registry = in_this_process.registry
    serving, other = registry.serving(1), registry.serving(2)
    of_version = store / "projects" / "1" / "versions" / serving
    target = of_version / file if file in OF_VERSION else store / "projects" / "1" / file
    if not target.exists():
        pytest.fail(f"{file} is not there")
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path != target}

    damage(target, how)

    served = captions(in_this_process, 1)
    assert captions(in_this_process, 2) == other
    if file in OF_VERSION:
        assert served != serving
        assert any(target.name in sentence for sentence in in_this_process.registry.damages(1))
    if file == "serving.json":
        assert served == serving
        assert any(file in sentence for sentence in in_this_process.registry.damages(1))
    if how in TRAINED_AFTER:
        in_this_process.correct(range(40, 46))
        assert isinstance(jobs.retrain(1, "after the damage"), dict)
        assert captions(in_this_process, 1)
        assert captions(in_this_process, 2) == other
    changed = set(OF_PROJECT)
    for path, content in before.items():
        assert path.exists()
        assert path.name in changed or path.read_bytes() == content


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("serving.json", {"promoted": None}),
        ("version.json", {"metrics": {"change_number": "many"}}),
        ("version.json", {"metrics": {"known_states": 5}}),
    ],
)
def test_a_field_of_another_type_stops_no_training(
    in_this_process: Workplace, store: Path, file: str, fields: dict[str, object]
) -> None:
    folder = store / "projects" / "1"
    path = folder / "versions" / in_this_process.registry.serving(1) / file if file == "version.json" else folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    assert any(file in sentence for sentence in in_this_process.registry.damages(1))
    in_this_process.correct(range(40, 46))
    assert isinstance(jobs.retrain(1, "after the damage"), dict)


def test_a_backend_that_runs_goes_on_with_what_it_has_and_one_that_starts_falls_back(
    in_this_process: Workplace, store: Path
) -> None:
    registry = in_this_process.registry
    running = ServingCaptioners(in_this_process.settings.caption_bundle, registry)
    version = running.captioner_for(1).version
    damage(store / "projects" / "1" / "versions" / version / "decoder.safetensors", "truncated")

    assert running.captioner_for(1).version == version
    assert captions(in_this_process, 1) != version


def test_the_version_that_setup_names_is_the_one_that_captions(
    make_backend: Callable[..., BackendClient], image_server: ImageServer, tmp_path: Path
) -> None:
    backend = make_backend(label_studio_url=image_server.url)
    registry = backend.services.captioners.registry
    versions = [
        registry.publish(
            1,
            backend.trainable_captioner(),
            parent=registry.serving(1),
            metrics={"number": number},
            corrections=[],
            decision="it is better",
        ).name
        for number in range(2)
    ]
    folder = Path(backend.settings.model_store) / "projects" / "1" / "versions"
    damage(folder / versions[1] / "decoder.json", "nested")
    started = make_backend(label_studio_url=image_server.url)

    body = {"project": "1.1", "schema": LABEL_CONFIG}
    named = json.loads(started.post("/setup", body).text)["model_version"]
    [entry] = started.predict([make_task(data={"captioning": image_server.show("/1.png")})])

    assert named == versions[0]
    assert entry["model_version"] == versions[0]


def test_a_pointer_that_is_written_anew_keeps_the_damaged_one(in_this_process: Workplace, store: Path) -> None:
    pointer = store / "projects" / "1" / "serving.json"
    damage(pointer, "a list")

    serving = in_this_process.registry.serving(1)
    in_this_process.registry.promote(1, serving, by="a person", bundle=lambda: in_this_process.bundle)

    assert json.loads(pointer.read_bytes())["version"] == serving
    assert (pointer.parent / "serving.damaged.json").read_bytes() == b"[1, 2, 3]"
    assert in_this_process.registry.damages(1) == []


def test_a_version_that_is_asked_for_by_name_is_still_refused_if_it_is_damaged(
    in_this_process: Workplace, store: Path
) -> None:
    serving = in_this_process.registry.serving(1)
    damage(store / "projects" / "1" / "versions" / serving / "decoder.safetensors", "emptied")

    with pytest.raises(CaptionerError, match=r"decoder\.safetensors in the model store is missing or damaged"):
        in_this_process.registry.load(1, serving, in_this_process.bundle)
