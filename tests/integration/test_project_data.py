"""A project's data leave when a person asks, and stay apart from those of a new project with the same id."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from backend.cli import main
from backend.label_studio.client import LabelStudioClient
from backend.sync.connected_projects import pull_project
from model.registry import ModelRegistry
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.vision.features import PARTS
from tests.backend_client import BackendClient
from tests.factories import make_correction, make_suggestion, make_task, store_annotation
from tests.fake_label_studio import LABEL_CONFIG, LEGACY_TOKEN, FakeLabelStudio
from tests.image_server import ImageServer
from tests.redis_server import RedisServer
from tests.workplace import Workplace
from worker.feedback import stored_features
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Feedback
from worker.feedback.suggestions import SuggestionLog
from worker.feedback.waiting import read_waiting
from worker.queue.job_metrics import JobCounts

FIRST, SECOND = 1_700_000_000, 1_795_900_000
KEY = "ab" * 32
OF_BOTH = "cd" * 32


@pytest.fixture
def settings_in_environment(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    for name, value in workplace.environment(LABEL_STUDIO_API_KEY="").items():
        monkeypatch.setenv(name, value)
    return workplace


def publish(registry: ModelRegistry, captioner: TorchCaptioner, project_id: int, **metrics: Any) -> None:
    """Let a project have a version of its own."""
    registry.publish(
        project_id,
        captioner,
        parent=registry.base_version,
        metrics=metrics,
        corrections=[],
        decision="it is better",
    )


def setup(backend: BackendClient, project: str) -> str:
    reply = backend.post("/setup", {"project": project, "schema": LABEL_CONFIG, "hostname": "", "access_token": ""})
    return str((reply.json or {})["model_version"])


def keys_of(redis: Redis, project_id: int) -> list[bytes]:
    return [name for name in redis.scan_iter(match="captioner:*") if f":{project_id}" in name.decode()]


@pytest.mark.parametrize("is_another_process", [False, True])
def test_a_project_with_the_id_of_an_earlier_one_begins_anew(
    make_backend: Callable[..., BackendClient], redis: Redis, is_another_process: bool
) -> None:
    backend = make_backend()
    registry, store = backend.services.captioners.registry, backend.services.store
    publish(registry, backend.trainable_captioner(), 1)
    store_annotation(redis, make_correction(project_id=1, caption="a caption of the first project"))
    of_first = setup(backend, f"1.{FIRST}")

    of_second = setup(make_backend() if is_another_process else backend, f"1.{SECOND}")

    assert of_first.startswith("v1-")
    assert of_second == registry.base_version
    assert FeedbackStore(redis).corrections(1) == []
    assert registry.versions(1) == []
    retired_corrections = store.read(f"retired/1-{FIRST}/corrections.jsonl")
    assert b"a caption of the first project" in (retired_corrections or b"")
    assert any(path.endswith("/version.json") for path in store.list(f"retired/1-{FIRST}"))


@pytest.mark.parametrize("later", [f"1.{FIRST}", f"1.{FIRST - 1}", "1.1", "1", "1.99999999999"])
def test_the_same_project_keeps_what_it_learned(make_backend: Callable[..., BackendClient], later: str) -> None:
    backend = make_backend()
    publish(backend.services.captioners.registry, backend.trainable_captioner(), 1)

    assert setup(backend, f"1.{FIRST}") == setup(backend, later)
    assert setup(make_backend(), later).startswith("v1-")


def test_a_made_up_time_of_creation_costs_a_project_nothing_for_long(
    make_backend: Callable[..., BackendClient], redis: Redis, label_studio: FakeLabelStudio
) -> None:
    created_at = datetime.fromtimestamp(FIRST, UTC).isoformat()
    label_studio.add_project(id=1, created_at=created_at)
    backend = make_backend(label_studio_url=label_studio.url, label_studio_api_key=LEGACY_TOKEN)
    registry = backend.services.captioners.registry
    setup(backend, f"1.{FIRST}")
    publish(registry, backend.trainable_captioner(), 1)
    serving = registry.serving(1)

    setup(backend, f"1.{SECOND}")
    assert registry.serving(1) == registry.base_version
    client = LabelStudioClient(label_studio.url, LEGACY_TOKEN)
    pull_project(client, redis, backend.settings, client.project(1))

    assert registry.serving(1) == serving
    assert backend.services.store.list(f"retired/1-{FIRST}") == []


def test_a_prediction_and_an_event_of_a_new_project_notice_it_too(
    make_backend: Callable[..., BackendClient], redis: Redis, image_server: ImageServer
) -> None:
    backend = make_backend()
    setup(backend, f"1.{FIRST}")
    store_annotation(redis, make_correction(project_id=1))
    task = make_task(id=1, data={"captioning": image_server.show("/1.png")})

    backend.post("/predict", {"tasks": [task], "project": f"1.{FIRST + 60}", "label_config": LABEL_CONFIG})

    assert FeedbackStore(redis).corrections(1) == []
    store_annotation(redis, make_correction(project_id=1))
    project = {"id": 1, "label_config": LABEL_CONFIG, "created_at": "2026-11-29T00:00:00Z"}

    backend.post("/webhook", {"action": "TASKS_DELETED", "project": project, "tasks": []})

    assert FeedbackStore(redis).corrections(1) == []


def test_forget_removes_everything_of_a_project_and_nothing_of_others(
    settings_in_environment: Workplace, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace = settings_in_environment
    for project_id in (1, 11):
        publish(workplace.registry, workplace.bundle.captioner(), project_id)
        store_annotation(redis, make_correction(project_id=project_id, image_key=OF_BOTH))
        SuggestionLog(redis).remember([make_suggestion(project_id=project_id, task_id=7, image_key=OF_BOTH)])
    SuggestionLog(redis).remember([make_suggestion(project_id=1, task_id=8, image_key=KEY)])
    for image_key in (KEY, OF_BOTH):
        workplace.features.put(image_key, workplace.bundle.replay[0].features)
    before = sorted(keys_of(redis, 11))

    assert main(["forget", "1", "--yes"]) == 0

    assert "removed 1 captions, 1 versions and the features of 1 images of project 1" in capsys.readouterr().out
    assert sorted(keys_of(redis, 1)) == before  # the number 11 begins with a 1
    assert FeedbackStore(redis).projects() == [11]
    assert {project for project, _ in JobCounts(redis).read().corrections} == {"11"}
    assert Store(workplace.settings.model_store).list("projects/1") == []
    assert len(workplace.registry.versions(11)) == 1
    assert [workplace.features.has(image_key) for image_key in (KEY, OF_BOTH)] == [False, True]


def test_forget_asks_first(settings_in_environment: Workplace, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    store_annotation(redis, make_correction(project_id=1))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")

    assert main(["forget", "1"]) == 1

    assert len(FeedbackStore(redis).corrections(1)) == 1


def test_a_connected_project_is_not_forgotten_because_its_captions_would_come_back(
    workplace: Workplace,
    label_studio: FakeLabelStudio,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": LEGACY_TOKEN}
    for name, value in workplace.environment(**ours).items():
        monkeypatch.setenv(name, value)
    label_studio.add_project(id=1)
    label_studio.connect_ours(1, redis)
    store_annotation(redis, make_correction(project_id=1))

    assert main(["forget", "1", "--yes"]) == 2
    assert "still connected" in capsys.readouterr().err

    label_studio.backends.clear()

    assert main(["forget", "1", "--yes"]) == 0
    assert FeedbackStore(redis).known_projects() == []


def test_a_backup_of_a_live_system_is_restored_into_an_empty_one(
    settings_in_environment: Workplace,
    own_redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workplace, file = settings_in_environment, tmp_path / "captions.tar.gz"
    corrections = workplace.correct(range(1, 31))
    publish(workplace.registry, workplace.bundle.captioner(), 1)
    SuggestionLog(workplace.redis).remember([make_suggestion(project_id=1, task_id=7)])
    is_over = threading.Event()

    def go_on() -> None:
        for number in itertools.count(100):
            if is_over.is_set():
                return
            store_annotation(workplace.redis, make_correction(annotation_id=number, project_id=2))

    with ThreadPoolExecutor(1) as threads:
        annotators = threads.submit(go_on)
        written = main(["backup", str(file)])
        is_over.set()
        annotators.result()
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path / "other store"))
    restored = main(["restore", str(file)])

    with own_redis.client() as redis:
        feedback = FeedbackStore(redis)
        assert [it.caption for it in feedback.corrections(1)] == [it.caption for it in corrections]
        assert read_waiting(redis, 1).count == 30
        assert redis.ttl("captioner:suggestions:1:7") > 0
        # Of one moment: each record of the project that was written meanwhile has its entries in every index.
        assert redis.hlen("captioner:feedback:2") == redis.zcard("captioner:times:2")
    assert ModelRegistry(Store(str(tmp_path / "other store")), workplace.bundle.version).serving(1).startswith("v1-")
    assert (written, restored) == (0, 0)
    assert main(["restore", str(file)]) == 2
    assert "holds projects already" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00half"])
def test_a_file_that_is_no_backup_is_refused(
    settings_in_environment: Workplace, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_in_environment.redis.flushall()
    (tmp_path / "file").write_bytes(content)

    assert main(["restore", str(tmp_path / "file")]) == 2
    assert "is no backup" in capsys.readouterr().err


def test_a_backup_that_is_not_there_is_named(
    settings_in_environment: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_in_environment.redis.flushall()

    assert main(["restore", str(tmp_path / "nothing")]) == 2
    assert f"there is no file {tmp_path / 'nothing'}" in capsys.readouterr().err


def test_one_persons_captions_leave_and_stay_away(
    settings_in_environment: Workplace, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = make_correction(annotation_id=1, annotator=7, caption="a caption that must go")
    store_annotation(redis, theirs)
    store_annotation(redis, make_correction(annotation_id=2, annotator=8, caption="a caption that stays"))

    workplace, store = settings_in_environment, Store(settings_in_environment.settings.model_store)
    samples = [{"correction": theirs.name, "written": theirs.caption}, {"correction": "another", "written": "it stays"}]
    publish(workplace.registry, workplace.bundle.captioner(), 1, samples=samples)
    earlier = f"retired/1-{FIRST}/corrections.jsonl"
    store.write(earlier, f"{Feedback(**vars(theirs)).to_json()}\n".encode())

    assert main(["forget", "1", "--annotator", "7", "--yes"]) == 0

    assert "removed 1 captions of person 7 from project 1" in capsys.readouterr().out
    [version] = workplace.registry.versions(1)
    assert version.metrics["samples"] == samples[1:]
    assert b"must go" not in b"".join(store.read(path) or b"" for path in (*store.list("projects/1"), earlier))
    assert main(["forget", "1", "--yes"]) == 0
    store_annotation(redis, make_correction(annotation_id=2, annotator=8, caption="a caption that stays"))
    store_annotation(redis, theirs)  # as an event or a pull would
    assert [correction.caption for correction in FeedbackStore(redis).corrections(1)] == ["a caption that stays"]
    everything = b"".join(redis.dump(name) or b"" for name in redis.scan_iter(match="captioner:*:1"))
    assert b"must go" not in everything


def test_a_backup_that_is_not_of_one_moment_is_no_backup(
    settings_in_environment: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("worker.feedback.backup.PAUSE_MS", 1)
    settings_in_environment.correct(range(1, 31))

    assert main(["backup", str(tmp_path / "captions.tar.gz")]) == 2
    assert "more than can be read in 0.001 s" in capsys.readouterr().err
    assert list(tmp_path.glob("*captions*")) == []


def test_the_oldest_features_beyond_the_bound_go_and_those_of_corrected_images_stay(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"ab{number:062x}" for number in range(8)]
    for number, image_key in enumerate(keys):
        workplace.features.put(image_key, np.zeros((50, 50)))
        [file] = Path(workplace.settings.model_store).rglob(f"{image_key}.npy")
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
    elsewhere = "cd" * 32
    workplace.features.put(elsewhere, np.zeros((50, 50)))
    store_annotation(workplace.redis, make_correction(annotation_id=1, image_key=keys[0]))
    monkeypatch.setattr(stored_features, "GB", 4 * 5200 * PARTS)  # the part of these keys may hold four files
    settings = workplace.settings.model_copy(update={"keep_features_gb": 1})

    removed = sum(stored_features.tidy_next_part(workplace.redis, settings) for _ in range(PARTS))

    assert removed == 4
    assert [image_key for image_key in keys if workplace.features.has(image_key)] == [keys[0], *keys[5:]]
    assert workplace.features.has(elsewhere)
