"""Data of another version: what 0.1.0 left is converted once, and what a newer version left is refused and kept."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.utils import as_text

from backend.cli import main
from backend.wsgi import make_app
from model.errors import LayoutError
from model.store import Store
from model.store_layout import note_store_layout
from tests.backend_client import BackendClient, make_settings
from tests.factories import environment_of, make_correction, store_annotation, write_bundle
from tests.feedback_world import totals_from, totals_of
from tests.payloads import load_payload
from tests.worker_process import WorkerProcess
from worker.feedback import conversion
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.layout import open_layout
from worker.feedback.record import Feedback
from worker.feedback.script import LAYOUT_KEY, key
from worker.feedback.suggestions import SuggestionLog
from worker.feedback.totals import Tally, read_ledger
from worker.feedback.waiting import read_waiting, trained_number

SAMPLE = json.loads((Path(__file__).parents[1] / "data" / "redis_layout_1.json").read_text(encoding="utf-8"))
"""What the code of version 0.1.0 wrote, and what it then read of it."""
PROJECTS = (1, 2, 3)
COUNTERS = (
    *("tasks", "accepted", "alternative", "edited", "rewritten", "written", "skipped", "words", "compared"),
    *("word_edits", "unchanged", "timed", "lead_time_ms"),
)


@pytest.fixture
def old(redis: Redis) -> Redis:
    """A Redis as version 0.1.0 left it."""
    fill(redis)
    return redis


def fill(redis: Redis) -> None:
    for name, stored in SAMPLE["keys"].items():
        kind, value = stored["type"], stored["value"]
        if kind == "hash":
            redis.hset(name, mapping=value)
        elif kind == "zset":
            redis.zadd(name, dict(value))
        elif kind == "set":
            redis.sadd(name, *value)
        elif kind == "list":
            redis.delete(name)
            redis.rpush(name, *value)
        else:
            redis.set(name, value)


def dump(redis: Redis) -> dict[str, bytes | None]:
    """Return everything that Redis holds."""
    return {as_text(name): redis.dump(name) for name in redis.keys("*")}


def check(redis: Redis) -> None:
    """Compare what is read now with what version 0.1.0 read."""
    for project_id in PROJECTS:
        facts = SAMPLE["facts"][str(project_id)]
        store = FeedbackStore(redis)
        corrections = sorted(store.corrections(project_id), key=lambda correction: correction.name)
        expected = sorted(facts["corrections"], key=lambda values: f"{values['annotation_id']}/{values['control']}")
        for before, after in zip(expected, corrections, strict=True):
            assert as_correction(after) == before | {"annotation_uid": known_uid(before)}
        for before, record in zip(facts["records"], store.records(project_id), strict=True):
            assert {name: as_json(getattr(record, name)) for name in before} == before
        assert excluded(redis, project_id) == {
            name: (why["reason"], why["by_job"]) for name, why in facts["excluded"].items()
        }
        waiting = read_waiting(redis, project_id)
        assert (waiting.count, waiting.unclaimed) == (facts["waiting"], facts["unclaimed"])
        assert (waiting.change_number, trained_number(redis, project_id)) == (
            facts["change_number"],
            facts["trained_number"],
        )
        ledger = read_ledger(redis, project_id)
        assert {str(name): counters(tally) for name, tally in ledger.versions.items()} == facts["versions"]
        spectrum = [sorted(map(list, arm.spectrum.items())) for arm in (ledger.shown, ledger.withheld)]
        assert spectrum == facts["spectrum"]
        assert totals_of(redis, project_id) == totals_from(redis, project_id)
    logs = [name for name in SAMPLE["keys"] if name.startswith("captioner:suggestions:")]
    assert {name: list(map(as_text, redis.lrange(name, 0, -1))) for name in logs} == {
        name: SAMPLE["keys"][name]["value"] for name in logs
    }
    assert SuggestionLog(redis).find(1, 3, "caption", "/data/upload/1/00000003-dog.jpg")[0].caption == "a dog runs"
    nouns = {as_text(name).split(":")[1] for name in redis.keys("captioner:*")}
    assert nouns.isdisjoint({"corrections", "ledger", "ledger-index", "set-aside"})


def as_correction(after: Any) -> dict[str, Any]:
    names = set(SAMPLE["facts"]["1"]["corrections"][0]) - {"model_version"}
    return {name: getattr(after, name) for name in names} | {"model_version": after.proposed_by}


def known_uid(correction: dict[str, Any]) -> str:
    """Return the UUID; a pull did not know it, and wrote the id."""
    uid: str = correction["annotation_uid"]
    return "" if uid == str(correction["annotation_id"]) else uid


def as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def excluded(redis: Redis, project_id: int) -> dict[str, tuple[str, bool]]:
    stored = redis.hgetall(key("excluded", project_id))
    whys = {as_text(name): json.loads(why) for name, why in stored.items()}
    return {name: (why["reason"], why["automatic"]) for name, why in whys.items()}


def counters(tally: Tally) -> list[int]:
    return [getattr(tally, name) for name in COUNTERS]


def test_what_version_0_1_0_left_is_kept(old: Redis) -> None:
    open_layout(old)

    check(old)
    assert old.get(LAYOUT_KEY) == b"2"


def test_what_was_converted_is_not_converted_again(old: Redis) -> None:
    open_layout(old)
    before = dump(old)

    open_layout(old)

    assert dump(old) == before


@pytest.mark.parametrize("batches", range(1, 6))
def test_a_conversion_that_is_killed_is_continued(old: Redis, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    monkeypatch.setattr(conversion, "AT_ONCE", 3)
    left = iter(range(batches - 1))

    def killed() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert_projects(old, killed)
    open_layout(old)

    check(old)


def test_several_processes_that_start_at_once_do_no_harm(
    old: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "AT_ONCE", 1)
    clients = [Redis.from_url(redis_url) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_layout, clients))
    for client in clients:
        client.close()

    check(old)


def test_two_conversions_in_the_same_moment_do_no_harm(old: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the lock of one of them ends too early."""
    monkeypatch.setattr(conversion, "AT_ONCE", 3)

    conversion.convert_projects(old, lambda: None)
    fill(old)
    conversion.convert_projects(old, lambda: None)
    open_layout(old)

    check(old)


def test_the_first_event_converts_what_no_start_has_converted(old: Redis) -> None:
    store_annotation(old, make_correction(project_id=9))

    assert old.get(LAYOUT_KEY) == b"2"
    check(old)


def test_a_pull_that_finds_the_converted_feedback_in_label_studio_changes_nothing(old: Redis) -> None:
    open_layout(old)
    store = FeedbackStore(old)
    view = store.begin_pull(1, "now")
    by_task: dict[int, list[Feedback]] = {}
    for record in store.records(1):
        by_task.setdefault(record.task_id, []).append(record)
    before = dump(old)

    for task_id, feedback in by_task.items():
        assert store.replace_task(1, task_id, view, feedback, [], time="now", is_complete=True).is_settled

    old.hdel(key("pulled", 1), *by_task)
    assert dump(old) == before


def test_an_empty_redis_gets_the_layout_and_nothing_else(redis: Redis) -> None:
    open_layout(redis)

    assert redis.keys("*") == [LAYOUT_KEY.encode()]


def test_a_newer_layout_of_redis_is_refused_and_nothing_is_written(old: Redis) -> None:
    old.set(LAYOUT_KEY, "3")
    before = dump(old)

    with pytest.raises(LayoutError, match=r"^Redis holds data in layout 3, and this version reads layout 2\."):
        open_layout(old)
    with pytest.raises(LayoutError):
        store_annotation(old, make_correction())

    assert dump(old) == before


@pytest.mark.parametrize("newer", ["Redis", "MODEL_STORE"])
def test_backend_worker_and_commands_refuse_a_newer_layout(
    redis: Redis,
    redis_url: str,
    tmp_path: Path,
    newer: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    write_bundle(tmp_path / "bundle")
    settings = make_settings(tmp_path, redis_url=redis_url)
    store = Store(settings.model_store)
    if newer == "Redis":
        redis.set(LAYOUT_KEY, "3")
    else:
        store.write("layout.json", b'{"layout": 3, "mood": "good"}')
    for name in ("redis_url", "model_store", "caption_bundle"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))

    with pytest.raises(LayoutError, match=f"^{newer} holds"):
        make_app(settings)
    assert main(["ledger", "1"] if newer == "Redis" else ["versions", "1"]) == 2
    assert f"captioner: {newer} holds" in capfd.readouterr().err
    worker = start_worker(environment_of(settings))
    assert worker.wait(60) == 2
    assert f"captioner worker: {newer} holds" in worker.log.read_text()


def test_an_event_is_answered_with_the_reason_when_a_newer_version_took_over_meanwhile(
    backend: BackendClient, redis: Redis
) -> None:
    redis.set(LAYOUT_KEY, "3")

    response = backend.post("/webhook", load_payload("26_webhook_ANNOTATION_CREATED_manual")["body"])

    assert response.status_code == 503
    assert response.get_json()["error"].startswith("Redis holds data in layout 3")


def test_a_store_that_names_no_layout_has_that_of_version_0_1_0_and_names_it_from_then_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("projects/1/serving.json", b'{"version": "v1-00000000"}')

    note_store_layout(store)
    note_store_layout(store)

    assert json.loads(store.read("layout.json") or b"") == {"layout": 1}
    assert store.read("projects/1/serving.json") == b'{"version": "v1-00000000"}'
