"""The audit log on a real Redis: actions of people and of the worker, in their order."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from backend.captioning.promotion import open_registry
from backend.cli import main
from tests.factories import environment_of, make_bundle
from tests.redis_server import RedisServer
from worker.audit import AuditLog
from worker.settings import Settings


def test_entries_are_read_newest_first(redis: Redis) -> None:
    log = AuditLog(redis)
    log.write("anna", "training paused", 7)
    log.write("the worker", "version refused", 7, version="v1-1a2b3c4d", reason="nicht besser — schade")

    newest, oldest = log.read()

    assert (newest.who, newest.action, newest.project_id) == ("the worker", "version refused", 7)
    assert newest.details == {"version": "v1-1a2b3c4d", "reason": "nicht besser — schade"}
    assert (oldest.who, oldest.action, oldest.details) == ("anna", "training paused", {})
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(newest.at) < timedelta(minutes=1)


def test_it_is_read_page_by_page(redis: Redis) -> None:
    log = AuditLog(redis)
    for number in range(5):
        log.write("anna", f"action {number}")

    first = log.read(count=2)
    second = log.read(before=first[-1].entry_id, count=2)
    third = log.read(before=second[-1].entry_id, count=2)

    assert [entry.action for entry in (*first, *second, *third)] == [f"action {number}" for number in (4, 3, 2, 1, 0)]
    assert log.read(before=third[-1].entry_id) == []


def test_an_action_goes_on_while_redis_is_away_and_the_process_log_keeps_the_entry(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(own_redis.url, retry=None) as redis:
        own_redis.kill()

        with caplog.at_level(logging.INFO):
            AuditLog(redis).write("anna", "training paused", 7)

    assert "audit who='anna' action='training paused' project=7" in caplog.text
    assert "audit entry not stored" in caplog.text


def test_the_command_line_says_that_it_moved_a_version(
    redis: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "bundle")
    settings = Settings(
        caption_bundle=str(tmp_path / "bundle"),
        model_store=str(tmp_path / "store"),
        redis_url=redis_url,
        refresh_predictions=False,
    )
    registry = open_registry(settings)
    candidate = make_bundle(tmp_path / "other", seed=1).captioner()
    version = registry.publish(
        3, candidate, parent=registry.base_version, metrics={}, corrections=[], decision="better"
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)

    assert main(["rollback", "3"]) == 0
    assert main(["promote", "3", version.name]) == 0

    promoted, rolled_back = AuditLog(redis).read()
    assert (promoted.who, promoted.action) == ("captioner promote (command line)", "version promoted")
    assert promoted.details == {"version": version.name, "before": registry.base_version}
    assert (rolled_back.who, rolled_back.action) == ("captioner rollback (command line)", "version rolled back")
    assert rolled_back.details == {"version": registry.base_version, "before": version.name}
    assert promoted.project_id == rolled_back.project_id == 3
