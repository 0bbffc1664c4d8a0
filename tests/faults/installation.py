"""A whole installation as processes: what a fault hits, and how it is made whole again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests
from redis import Redis

from backend.demo.child_processes import (
    LOOPBACK,
    Service,
    Services,
    captioner_command,
    free_port,
    our_environment,
    start_backend,
    wait_until,
)
from model.errors import ServiceError
from model.manifest import bundle_version
from model.registry import ModelRegistry
from model.store import Store
from tests.redis_server import RedisServer
from worker.queue.heartbeats import living_workers
from worker.settings import Settings

START_S = 90
SOURCE = Path(__file__).with_name("moved_clock.c")


class Installation:
    """Redis, backend and worker."""

    def __init__(
        self, services: Services, folder: Path, bundle: str, label_studio: str, api_key: str, clock: "MovedClock"
    ) -> None:
        self._services, self.clock = services, clock
        self.redis_server = RedisServer(folder / "redis", fsync="everysec")
        with self._moved_clock():
            self.redis_server.start()
        self.settings = {
            "HOST": LOOPBACK,
            "PORT": str(free_port()),
            "REDIS_URL": self.redis_server.url,
            "MODEL_STORE": str(folder / "store"),
            "CAPTION_BUNDLE": bundle,
            "LABEL_STUDIO_URL": label_studio,
            "LABEL_STUDIO_API_KEY": api_key,
            "RETRAIN_AFTER": "40",
            "RETRAIN_IDLE_S": "0",
            "RETRAIN_BUDGET_S": "1",
            "KEEP_VERSIONS": "5",
        }
        self.store = folder / "store"
        self.redis = self.redis_server.client()
        self.damaged: set[Path] = set()
        """Files in the store that faults have damaged."""
        self.was_killed: set[str] = set()
        """Processes that a fault has ended, so that they must be started again."""
        self.start_backend()
        self.start_worker()

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(Store(str(self.store)), bundle_version(self.settings["CAPTION_BUNDLE"]))

    @property
    def worker_settings(self) -> Settings:
        return Settings.from_env(self.settings)

    def start_backend(self) -> None:
        with self._moved_clock():
            self.backend = start_backend(self._services, self.settings, START_S)

    def start_worker(self) -> None:
        before = living_workers(self.redis)
        with self._moved_clock():
            environment = our_environment(self.settings)
            self.worker = self._services.start(
                "worker", captioner_command("worker"), url=self.redis_server.url, environ=environment
            )
        wait_until(self.worker, lambda: bool(living_workers(self.redis) - before), START_S)

    def family(self, service: Service) -> list[psutil.Process]:
        """Return the process of a service and all it has started, the newest last."""
        with suppress(psutil.NoSuchProcess):
            leader = psutil.Process(service.process.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def kill(self, service: Service) -> None:
        """End a service as a power cut would."""
        for process in self.family(service):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._services.stop(service)
        self.was_killed.add(service.name)

    def heal(self) -> None:
        """Start what a fault has ended."""
        if "redis" in self.was_killed:
            with self._moved_clock():
                self.redis_server.start()
        if "backend" in self.was_killed:
            self.start_backend()
        if "worker" in self.was_killed:
            self.start_worker()
        self.was_killed.clear()

    def post(self, path: str, body: object, timeout_s: float = 30) -> requests.Response:
        return requests.post(self.backend.url + path, json=body, timeout=timeout_s)

    def close(self) -> None:
        self.redis_server.kill()

    @contextmanager
    def _moved_clock(self) -> Iterator[None]:
        """Let the processes that are started in this block have the clock that faults move."""
        before = dict(os.environ)
        os.environ.update(self.clock.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class MovedClock:
    """The clock of all processes that are started with `environment`; it can be moved while they run."""

    def __init__(self, folder: Path) -> None:
        """Compile the library that moves it.

        Raises:
            ServiceError: there is no C compiler.
        """
        library, self._file = folder / "moved_clock.so", folder / "clock"
        try:
            command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
            subprocess.run(command, check=True)
        except FileNotFoundError as cause:
            raise ServiceError("no C compiler, which moved clocks need (Debian: apt install gcc libc6-dev)") from cause
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self._file)}
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Let the clock be so many seconds ahead of the real one, which this process has."""
        self.ahead_s = ahead_s
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(ahead_s.to_bytes(8, sys.byteorder, signed=True))


def clients_of(redis: Redis) -> Iterator[str]:
    """Return the addresses of the connections to Redis but this one."""
    own = redis.client_id()
    yield from (str(client["addr"]) for client in redis.client_list() if int(client["id"]) != own)
