"""Fixtures for every kind of test."""

import os
import sys

# This must stand before torch is imported: the networks of the tests are small, and threads would only wait.
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


@pytest.fixture(autouse=True)
def _full_precision_again() -> Iterator[None]:
    """Some code lets torch multiply in bfloat16, where the CPU can. The next test must not notice."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def _shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    # Nobody kills this server, so it need not wait for the disk after each write.
    server = RedisServer(tmp_path_factory.mktemp("redis"), fsync="everysec")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_shared_redis_server: RedisServer) -> str:
    """Return the address of a real Redis. It is empty, and it writes an append-only file."""
    with _shared_redis_server.client() as client:
        client.flushall()
    return _shared_redis_server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Return a client of the real Redis at redis_url. Its blocking reads have no time limit."""
    with Redis.from_url(redis_url, socket_timeout=None) as client:
        yield client


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    """A web server with images. It can also misbehave as web servers do."""
    with ImageServer() as server:
        yield server


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    """A small Label Studio of our own, without projects. In tests/e2e this name stands for a real one."""
    with FakeLabelStudio() as label_studio:
        yield label_studio


@pytest.fixture
def hold() -> Iterator[Hold]:
    hold = Hold()
    yield hold
    hold.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start worker processes. They are killed when the test ends."""
    started: list[WorkerProcess] = []

    def start(environment: dict[str, str], *arguments: str) -> WorkerProcess:
        started.append(WorkerProcess(tmp_path / f"worker-{len(started)}.log", environment, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
