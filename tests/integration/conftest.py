"""Fixtures with a real Redis, real worker processes and a real web server; the bundle is tiny and untrained."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.backend_client import BackendClient, make_settings
from tests.factories import make_bundle, write_bundle
from tests.image_server import ImageServer
from tests.redis_server import RedisServer
from tests.workplace import Workplace
from worker.settings import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process begin with its share of the long tests, so that none is alone with one at the end.

    Each process gets about as many tests, one after the other in this order, and takes over what others have not begun.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    size = -(-len(items) // processes)
    ordered: list[pytest.Item] = []
    for number in range(processes):
        share = long[number::processes]
        ordered += share
        ordered += others[: size - len(share)]
        del others[: size - len(share)]
    items[:] = ordered + others


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test alone, which it can kill and start again."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_workplace(tmp_path: Path) -> Callable[[str], Workplace]:
    def make(redis_url: str) -> Workplace:
        settings = Settings(
            redis_url=redis_url,
            model_store=str(tmp_path / "store"),
            caption_bundle=str(tmp_path / "bundle"),
            label_studio_url="http://127.0.0.1:9",  # requests to Label Studio fail at once
            retrain_budget_s=20,
            refresh_predictions=False,
        )
        bundle = make_bundle(tmp_path / "bundle")
        return Workplace(Redis.from_url(redis_url, socket_timeout=None), settings, bundle, tmp_path)

    return make


@pytest.fixture
def workplace(redis_url: str, make_workplace: Callable[[str], Workplace]) -> Workplace:
    return make_workplace(redis_url)


@pytest.fixture
def make_backend(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., BackendClient]]:
    """Make a backend with a tiny bundle and a real Redis. Keywords are settings; `login` is sent with each request."""
    write_bundle(tmp_path / "bundle", seed=6)  # with this seed the untrained network tells colours apart

    def make(login: tuple[str, str] | None = None, **changes: Any) -> BackendClient:
        made.append(BackendClient(make_settings(tmp_path, **{"redis_url": redis_url, **changes}), login))
        return made[-1]

    made: list[BackendClient] = []
    yield make
    for backend in made:  # what it still does in the background belongs to this test's Redis
        backend.services.memories.wait()


@pytest.fixture
def backend(make_backend: Callable[..., BackendClient], image_server: ImageServer) -> BackendClient:
    """An open backend whose Label Studio is the image server."""
    return make_backend(label_studio_url=image_server.url, label_studio_api_key="f" * 40)
