"""The faults. Each begins at once, and what it yields from ends when the crowd has gone on beside it for a while."""

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from redis.exceptions import RedisError

from backend.demo.child_processes import Service
from tests.faults.installation import Installation, clients_of
from tests.faults.studios import Studio

Fault = Callable[[Installation, Studio, random.Random], Iterator[None]]
PAUSES_S = {"backend": 2.0, "worker": 4.0, "redis": 2.0}
DAMAGES: tuple[Callable[[bytes], bytes | None], ...] = (
    lambda content: content[: len(content) // 2],
    lambda _: b"",
    lambda _: b'{"version": 3, "before": "x", "metrics": []}',
    lambda _: b"[" * 100_000,
    lambda _: None,
)
HOURS_S = 3600


def kill_backend(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    installation.kill(installation.backend)
    yield


def kill_worker(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    installation.kill(installation.worker)
    yield


def kill_job(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """End the process of a job, as the kernel does when memory is short."""
    for process in installation.family(installation.worker)[1:]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    yield


def kill_redis(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    installation.redis_server.kill()
    installation.was_killed.add("redis")
    yield


def kill_everything(installation: Installation, studio: Studio, draw: random.Random) -> Iterator[None]:
    """Cut the power."""
    yield from kill_redis(installation, studio, draw)
    installation.kill(installation.backend)
    installation.kill(installation.worker)


def stop_backend(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Freeze the backend."""
    with _frozen(installation.family(installation.backend)):
        yield


def stop_worker(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    with _frozen(installation.family(installation.worker)):
        yield


def stop_redis(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    with _frozen([psutil.Process(installation.redis_server.pid)]):
        yield


def end_backend_politely(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Restart the backend as an update does."""
    _end(installation, installation.backend)
    yield


def end_worker_politely(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    _end(installation, installation.worker)
    yield


def cut_connections(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Close all connections to Redis, as a firewall does."""
    for address in clients_of(installation.redis):
        with suppress(RedisError):
            installation.redis.client_kill(address)
    yield


def fill_redis(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Let Redis refuse writes because its memory is full."""
    with _configured(installation, {"maxmemory": "1mb", "maxmemory-policy": "noeviction"}):
        yield


def forbid_writes(installation: Installation, _studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Let Redis refuse writes for another reason than its memory, as with a full disk."""
    with _configured(installation, {"min-replicas-to-write": "1"}):
        yield


def fill_disk(installation: Installation, _studio: Studio, draw: random.Random) -> Iterator[None]:
    """Let files of backend, worker and jobs grow to a few bytes only."""
    most = draw.choice([0, 1000, 20_000])
    families = [installation.family(service) for service in (installation.backend, installation.worker)]
    for process in [process for family in families for process in family]:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (most, psutil.RLIM_INFINITY))
    yield
    for service in (installation.backend, installation.worker):
        for process in installation.family(service):
            with suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


def damage_files(installation: Installation, _studio: Studio, draw: random.Random) -> Iterator[None]:
    """Damage one to three files of a project, or of features."""
    for _ in range(draw.randint(1, 3)):
        files = [*_files(installation.store / "projects/1"), *_files(installation.store / "features")]
        if files:
            file = draw.choice(files)
            with suppress(FileNotFoundError):
                _damage(file, draw.choice(DAMAGES))
                installation.damaged.add(file)
    yield


def label_studio_fails(_installation: Installation, studio: Studio, _draw: random.Random) -> Iterator[None]:
    """Let Label Studio answer our requests with errors."""
    with studio.failing():
        yield


def move_clock(installation: Installation, _studio: Studio, draw: random.Random) -> Iterator[None]:
    """Set the clock of Redis, backend and worker to another time, where it stays."""
    installation.clock.set(draw.choice([-30, -2, 2, 30, 24, -24, 24 * 40, 0]) * HOURS_S)
    yield


FAULTS: Mapping[str, Fault] = {
    "the backend is killed": kill_backend,
    "the worker is killed": kill_worker,
    "a job is killed": kill_job,
    "Redis is killed": kill_redis,
    "everything is killed": kill_everything,
    "the backend freezes": stop_backend,
    "the worker freezes": stop_worker,
    "Redis freezes": stop_redis,
    "the backend restarts": end_backend_politely,
    "the worker restarts": end_worker_politely,
    "connections are cut": cut_connections,
    "the memory of Redis is full": fill_redis,
    "Redis refuses writes": forbid_writes,
    "the disk is full": fill_disk,
    "files are damaged": damage_files,
    "Label Studio fails": label_studio_fails,
    "the clock is moved": move_clock,
}


def _end(installation: Installation, service: Service) -> None:
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(60)
    installation.kill(service)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _damage(file: Path, how: Callable[[bytes], bytes | None]) -> None:
    content = how(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)


@contextmanager
def _frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def _configured(installation: Installation, changes: Mapping[str, str]) -> Iterator[None]:
    redis = installation.redis
    before = {name: str(redis.config_get(name)[name]) for name in changes}
    for name, value in changes.items():
        redis.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            redis.config_set(name, value)
