"""The model store: files in a directory or at any URL that fsspec supports (s3://, gs://, memory://).

A reader sees the old content of a file or the new one, never a part. Several processes may read and write at once. If
two write the same path, the last one wins.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from model.errors import StoreError

S3_OPTIONS = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 15, "retries": {"total_max_attempts": 2}}}
"""With the defaults of S3's client a store that is away holds each request up for 5 to 10 s; with these for one."""
_UNFINISHED = ".unfinished"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as a list shows it."""

    path: str
    bytes: int
    written_at: float
    """Unix time; 0 where the file system does not say."""


class Store:
    """Reads and writes whole files by relative path ("versions/7/serving.json")."""

    def __init__(self, location: str | Path) -> None:
        """Open the store. Nothing is created before the first write.

        Args:
            location: a directory, or a URL of an fsspec file system.

        Raises:
            StoreError: the URL's file system is unknown or its package is not installed.
        """
        self.location = str(location)
        try:
            options = S3_OPTIONS if self.location.startswith("s3://") else {}
            self._remote, root = url_to_fs(self.location, use_listings_cache=False, **options)
        except (ValueError, ImportError) as cause:
            raise StoreError(f"the model store {self.location!r} cannot be used: {_way_out(cause)}") from cause
        self._is_local = "file" in self._protocols()
        self._root = os.path.expanduser(root).rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The directory, which need not exist yet; None for a store at a URL."""
        return Path(self._root) if self._is_local else None

    def read(self, path: str) -> bytes | None:
        """Return the content of the file; None if it does not exist."""
        with self._reported("read", path):
            try:
                content = self._remote.cat_file(self._full(path))
            except FileNotFoundError:
                return None
            return bytes(content)

    def write(self, path: str, content: bytes) -> None:
        """Replace the file. When this returns, the content survives a crash."""
        with self._reported("write", path):
            if self._is_local:
                with replaced_file(Path(self._full(path))) as file:
                    file.write(content)
            else:
                self._remote.pipe_file(self._full(path), content)

    def exists(self, path: str) -> bool:
        """Return True if there is a file at this path."""
        with self._reported("look for", path):
            try:
                return bool(self._remote.info(self._full(path))["type"] == "file")
            except FileNotFoundError:
                return False

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names of the files and folders directly in the folder `prefix`."""
        with self._reported("list", prefix):
            try:
                paths = self._remote.ls(self._full(prefix), detail=False)
            except FileNotFoundError:
                return []
            return sorted(PurePosixPath(str(path)).name for path in paths if not str(path).endswith(_UNFINISHED))

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted paths of all files below the folder `prefix`."""
        with self._reported("list", prefix):
            folder = self._full(prefix) if prefix else self._root
            paths = (str(path).removeprefix(self._root).lstrip("/") for path in self._remote.find(folder))
            return sorted(path for path in paths if not path.endswith(_UNFINISHED))

    def files(self, folder: str) -> Sequence[StoredFile]:
        """Return the files directly in a folder, the oldest first."""
        with self._reported("list", folder):
            try:
                entries = self._remote.ls(self._full(folder), detail=True)
            except FileNotFoundError:
                return []
            found = [_stored_file(folder, entry) for entry in entries if entry["type"] == "file"]
        return sorted(
            (it for it in found if not it.path.endswith(_UNFINISHED)), key=lambda it: (it.written_at, it.path)
        )

    def delete(self, path: str) -> None:
        """Remove the file, if it exists."""
        with self._reported("delete", path), suppress(FileNotFoundError):
            self._remote.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise StoreError(f"a path in the model store must be relative and stay inside it, got {path!r}")
        return "/".join((self._root, *parts))

    def _protocols(self) -> tuple[str, ...]:
        protocol = self._remote.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    @contextmanager
    def _reported(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as cause:  # every fsspec file system has its own errors
            raise StoreError(f"cannot {verb} {path!r} in model store {self.location!r}: {cause}") from cause


def _way_out(cause: Exception) -> str:
    if isinstance(cause, ImportError) and "s3fs" in str(cause):
        where = "where the backend and its workers run"
        return f'S3 needs the extra `s3`; run `pip install "label-studio-captioner[s3]"` {where}'
    return str(cause)


def _stored_file(folder: str, entry: Mapping[str, Any]) -> StoredFile:
    written = next((entry[name] for name in ("mtime", "LastModified", "created", "updated") if entry.get(name)), 0.0)
    return StoredFile(
        path=f"{folder}/{PurePosixPath(str(entry['name'])).name}",
        bytes=int(entry["size"] or 0),
        written_at=written.timestamp() if isinstance(written, datetime) else float(written),
    )


@contextmanager
def replaced_file(target: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write. If the block succeeds, it is flushed to disk and renamed to the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def remove_file(target: Path) -> None:
    """Remove a file and unfinished copies of killed processes, if they exist. No process may be writing the file."""
    target.unlink(missing_ok=True)
    for beside in target.parent.glob(f".{target.name}.*{_UNFINISHED}"):
        beside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename in this folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
