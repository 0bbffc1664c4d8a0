"""A backup of what cannot be made again: what Redis holds of projects, and their versions in the model store.

Features are not in it, because they are computed again. Jobs are not in it either: the next pull starts what is due.
A backup is a .tar.gz file. Its `redis.jsonl` has a line [key, milliseconds to live or 0, value] for each key. Key and
value are in base64, and the value is as DUMP writes it. Below `store/` lie the files of the model store.
"""

import base64
import io
import json
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from rq.utils import as_text

from model.errors import SettingsError
from model.store import Store
from worker.feedback.layout import open_layout

PAUSE_MS = 120_000
"""Writers wait so long at most while the keys are read. A webhook that gives up meanwhile is pulled later."""
OF_THE_MOMENT = (
    "heartbeats",
    "wrong-passwords",
    "nonce",
    "put-back",
    "taken-back",
    "job-log",
    "next-pull",
    "retire-lock",
)
"""Second parts of the names of keys that mean nothing later."""
FOLDERS = ("projects", "retired")
KEYS, STORE = "redis.jsonl", "store/"


def write_backup(redis: Redis, store: Store, file: Path) -> tuple[int, int]:
    """Write a backup; everything may run meanwhile. Returns the number of keys and of files in it.

    Raises:
        RedisError, StoreError, OSError: it could not be written; no file is left.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with tarfile.open(unfinished, "w:gz") as archive:
            lines = list(_dumped(redis))
            _add(archive, KEYS, "".join(lines).encode())
            paths = [path for folder in FOLDERS for path in store.list(folder)]
            for path in paths:
                content = store.read(path)
                if content is not None:  # it may have been deleted in this moment
                    _add(archive, STORE + path, content)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(lines), len(paths)


def restore_backup(redis: Redis, store: Store, file: Path) -> tuple[int, int]:
    """Put a backup back into an empty Redis and into the model store; returns the number of keys and of files.

    Raises:
        SettingsError: the file is no backup, or Redis holds something already.
        RedisError, StoreError: not everything could be put back; the same call on an emptied Redis does it again.
    """
    if next(_names(redis), None) is not None:
        raise SettingsError("Redis holds projects already; restore into an empty one, so that nothing is mixed")
    try:
        with tarfile.open(file, "r:gz") as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            keys = _content(archive, members[KEYS]).decode().splitlines()
            for line in keys:
                name, lives_ms, value = json.loads(line)
                redis.restore(base64.b64decode(name), lives_ms, base64.b64decode(value), replace=True)
            paths = [name for name in members if name.startswith(STORE)]
            for path in paths:
                store.write(path.removeprefix(STORE), _content(archive, members[path]))
    except FileNotFoundError as cause:
        raise SettingsError(f"there is no file {file}") from cause
    except (tarfile.TarError, KeyError, ValueError, EOFError) as cause:
        raise SettingsError(f"{file} is no backup that `captioner backup` wrote: {cause!r}") from cause
    open_layout(redis)
    return len(keys), len(paths)


def _dumped(redis: Redis) -> Iterator[str]:
    """Yield a line for each key, all of the same moment."""
    with _paused_writers(redis):
        for name in _names(redis):
            value, lives_ms = redis.dump(name), redis.pttl(name)
            if value is not None:
                texts = [base64.b64encode(each).decode() for each in (name, value)]
                yield json.dumps([texts[0], max(0, lives_ms), texts[1]]) + "\n"


@contextmanager
def _paused_writers(redis: Redis) -> Iterator[None]:
    redis.client_pause(PAUSE_MS, all=False)
    began = time.monotonic()
    try:
        yield
    finally:
        redis.client_unpause()
    if time.monotonic() - began > PAUSE_MS / 1000:
        limit = f"{PAUSE_MS / 1000:g} s"
        raise SettingsError(f"Redis holds more than can be read in {limit}; copy its append-only file instead")


def _names(redis: Redis) -> Iterator[bytes]:
    for name in redis.scan_iter(match="captioner:*", count=500):
        if as_text(name).split(":")[1] not in OF_THE_MOMENT:
            yield name if isinstance(name, bytes) else name.encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()
