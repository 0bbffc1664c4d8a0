"""Fixtures every kind of test may ask for."""

import os

# Before torch is imported: its networks are small here, and threads that wait for a busy core cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.fake_label_studio import FakeLabelStudio
from tests.image_server import ImageServer
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from tests.workplace import Hold


@pytest.fixture(scope="session")
def _shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_shared_redis_server: RedisServer) -> str:
    """The address of a real, empty Redis that runs with an append-only file."""
    with _shared_redis_server.client() as client:
        client.flushall()
    return _shared_redis_server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the real Redis at redis_url; its blocking reads end when there is something to read."""
    with Redis.from_url(redis_url, socket_timeout=None) as client:
        yield client


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    """A web server with images, and with the tricks servers play."""
    with ImageServer() as server:
        yield server


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    """A small Label Studio of our own, without projects; tests/e2e has a real one under this name."""
    with FakeLabelStudio() as label_studio:
        yield label_studio


@pytest.fixture
def hold() -> Iterator[Hold]:
    hold = Hold()
    yield hold
    hold.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start worker processes that end with the test, whatever it does to them."""
    started: list[WorkerProcess] = []

    def start(environment: dict[str, str], *arguments: str) -> WorkerProcess:
        started.append(WorkerProcess(tmp_path / f"worker-{len(started)}.log", environment, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
