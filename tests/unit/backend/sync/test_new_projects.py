"""A project that connects gets a job that adds our credentials to its webhook; /setup does not wait for it."""

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from backend.sync.new_projects import AGAIN_AFTER_S, SOON_S, NewProjects
from worker.settings import Settings

KEY = "f" * 40
REDIS = Redis(port=1)  # never connected to


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("backend.sync.new_projects.enqueue_backend_job", lambda _, *call: calls.append(call))
    return calls


def welcome(new_projects: NewProjects, project_id: int) -> None:
    thread = new_projects.welcome(project_id)
    if thread is not None:
        thread.join()


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        (Settings(), 0),
        (Settings(webhook_secret="s"), 0),
        (Settings(label_studio_api_key=KEY), 1),
        (Settings(webhook_secret="s", label_studio_api_key=KEY), 1),
        (Settings(basic_auth_user="u", basic_auth_pass="p", label_studio_api_key=KEY), 1),
    ],
    ids=["open", "secret without key", "key alone", "secret", "login"],
)
def test_a_project_is_welcomed_where_label_studio_can_be_asked(
    enqueued: list[tuple[Any, ...]], settings: Settings, jobs: int
) -> None:
    welcome(NewProjects(settings, REDIS), 7)

    assert enqueued == [("connect_project", 7)] * jobs


def test_a_project_is_welcomed_once_an_hour(enqueued: list[tuple[Any, ...]]) -> None:
    moments = iter([0.0, 1.0, AGAIN_AFTER_S - 1, AGAIN_AFTER_S])
    new_projects = NewProjects(
        Settings(webhook_secret="s", label_studio_api_key=KEY), REDIS, clock=lambda: next(moments)
    )

    for _ in range(4):
        welcome(new_projects, 7)

    assert len(enqueued) == 2


def test_a_project_that_had_left_is_welcomed_at_once(enqueued: list[tuple[Any, ...]]) -> None:
    moments = iter([0.0, SOON_S])
    new_projects = NewProjects(Settings(label_studio_api_key=KEY), REDIS, clock=lambda: next(moments))

    for _ in range(2):
        thread = new_projects.welcome(7, had_left=True)
        assert thread is not None
        thread.join()

    assert len(enqueued) == 2


def test_if_redis_does_not_answer_the_next_setup_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RedisConnectionError("away")

    monkeypatch.setattr("backend.sync.new_projects.enqueue_backend_job", fail)
    new_projects = NewProjects(Settings(webhook_secret="s", label_studio_api_key=KEY), REDIS)

    welcome(new_projects, 7)

    assert "problem=away" in caplog.text
    assert new_projects.welcome(7) is not None
