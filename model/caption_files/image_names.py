"""Image files by the names that captions files and tasks give them.

A file that is there under the same name counts first. Otherwise these differences do not matter: the case of the
extension, and the two spellings of accents in Unicode (NFC, and NFD on disks of macOS). Label Studio puts eight
characters and a hyphen before the name of an upload, and writes `my dog.jpg` as `my_dog.jpg`.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from unicodedata import normalize
from urllib.parse import parse_qs, unquote, urlsplit

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|/(.*/)?data/(upload|local-files)/", re.IGNORECASE)
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


def is_address(reference: str) -> bool:
    """Say whether it is the address of an image, as tasks of Label Studio have it, and not the name of a file."""
    return _ADDRESS.match(reference) is not None or reference.startswith("data:")


def image_names(reference: str) -> tuple[str, ...]:
    """Return the names that the file of an image may have, the likeliest first; none for a `data:` address.

    >>> image_names("/data/upload/1/0a1b2c3d-dog.jpg")[-2:]
    ('0a1b2c3d-dog.jpg', 'dog.jpg')
    """
    if not is_address(reference):
        return (reference,)
    path = _path_of(reference)
    parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
    names = [reference, *("/".join(parts[start:]) for start in range(len(parts)))]
    if parts and "/data/upload/" in f"/{path}":
        names.append(_UPLOAD.sub("", parts[-1], count=1))
    return tuple(dict.fromkeys(names)) if parts else ()


def may_differ(references: Iterable[str], file_name: str) -> bool:
    """Say whether these references, which all lead to one file, may mean several pictures.

    Two uploads called 0a1b2c3d-1.jpg and 4e5f6a7b-1.jpg may be two pictures of that name from two cameras.
    """
    addresses = [reference for reference in references if is_address(reference)]
    is_upload = _UPLOAD.match(file_name) is not None
    return len(addresses) > 1 and not (is_upload and all(file_name in image_names(address) for address in addresses))


def plain_name(name: str) -> str:
    """Return the last part of a name in the spelling that is compared."""
    path = PurePosixPath(normalize("NFC", name))
    return path.stem + path.suffix.casefold()


def upload_name(name: str) -> str:
    """Return the name as Label Studio stores an upload of it (Django's get_valid_filename), without the prefix."""
    return re.sub(r"[^-\w.]", "", plain_name(name).strip().replace(" ", "_"))


class ImageFolder:
    """The directory of the images, and the directories in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, reference: str) -> Path | None:
        """Return the file of an image; None if there is none, or if several could be meant."""
        names = image_names(reference)
        for name in names:
            if _is_file(self.folder / name):
                return self.folder / name
        similar = self._matching(names)
        return self.folder / similar.pop() if len(similar) == 1 else None

    def hint(self, reference: str) -> str:
        """Return the reference, short, with files that resemble it by name."""
        shown = reference if len(reference) <= 80 else reference[:77] + "..."
        names = {normalize("NFC", PurePosixPath(name).name).casefold() for name in image_names(reference)}
        there = sorted({file for name in names for file in self._by_letters.get(name, ())})
        return f"{shown} (there is {' and '.join(there[:2])})" if there else shown

    def _matching(self, names: Iterable[str]) -> set[str]:
        names = tuple(names)
        found = {file for name in names for file in self._by_path.get(_plain_path(name), ())}
        if not found and len(names) > 1:  # an address, whose directories are those of Label Studio
            found = {file for name in names for file in self._by_upload.get(upload_name(name), ())}
        return found

    @cached_property
    def _files(self) -> list[str]:
        """All files, by their path in the directory."""
        return [
            (Path(place) / name).relative_to(self.folder).as_posix()
            for place, _, names in os.walk(self.folder)
            for name in names
        ]

    @cached_property
    def _by_path(self) -> dict[str, list[str]]:
        return _group((_plain_path(file), file) for file in self._files)

    @cached_property
    def _by_upload(self) -> dict[str, list[str]]:
        return _group((upload_name(file), file) for file in self._files)

    @cached_property
    def _by_letters(self) -> dict[str, list[str]]:
        return _group((normalize("NFC", PurePosixPath(file).name).casefold(), file) for file in self._files)


def _path_of(address: str) -> str:
    if address.startswith("data:"):
        return ""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if parts.path.rstrip("/").endswith("/data/local-files"):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path)


def _plain_path(name: str) -> str:
    path = PurePosixPath(normalize("NFC", name))
    return str(path.parent / plain_name(path.name)) if path.name else name


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in pairs:
        groups[name].append(file)
    return groups


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no disk can hold
        return False
