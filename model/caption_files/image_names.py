"""Image files by the names that captions files and tasks give them.

A file that is there under the same name counts first. Otherwise these differences do not matter: the case of the
extension, the two spellings of accents in Unicode (NFC, and NFD on disks of macOS), and Windows' backslashes between
directories. Label Studio puts eight characters and a hyphen before the name of an upload, and writes `my dog.jpg` as
`my_dog.jpg`.
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
        return tuple(dict.fromkeys([reference, reference.replace("\\", "/")]))
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


class SimilarNames:
    """Names, to be found by other spellings of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def find(self, reference: str) -> set[str]:
        names = image_names(reference)
        found = {file for name in names for file in self._by_path.get(_plain_path(name), ())}
        if not found and is_address(reference):  # its directories are those of Label Studio
            found = {file for name in names for file in self._by_upload.get(upload_name(name), ())}
        return found

    def of_letters(self, reference: str) -> list[str]:
        """Return those whose last part has the same letters, in any case, in the order of the alphabet."""
        return sorted({file for name in image_names(reference) for file in self._by_letters.get(_letters(name), ())})

    @cached_property
    def _by_path(self) -> dict[str, list[str]]:
        return _group((_plain_path(name), name) for name in self._names)

    @cached_property
    def _by_upload(self) -> dict[str, list[str]]:
        return _group((upload_name(name), name) for name in self._names)

    @cached_property
    def _by_letters(self) -> dict[str, list[str]]:
        return _group((_letters(name), name) for name in self._names)


class ImageFolder:
    """The directory of the images, and the directories in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, reference: str) -> Path | None:
        """Return the file of an image; None if there is none, or if several could be meant."""
        for name in image_names(reference):
            if _is_file(self.folder / name):
                return self.folder / name
        similar = self._files.find(reference)
        return self.folder / similar.pop() if len(similar) == 1 else None

    def hint(self, reference: str) -> str:
        """Return the reference, short, with files that resemble it by name."""
        shown = reference if len(reference) <= 80 else reference[:77] + "..."
        there = self._files.of_letters(reference)
        return f"{shown} (there is {' and '.join(there[:2])})" if there else shown

    @cached_property
    def _files(self) -> SimilarNames:
        """All files, by their path in the directory."""
        return SimilarNames(
            (Path(place) / name).relative_to(self.folder).as_posix()
            for place, _, names in os.walk(self.folder)
            for name in names
        )


class NameList:
    """Names of images that a person listed, in the spellings of the files or others."""

    def __init__(self, names: Iterable[str], folder: ImageFolder) -> None:
        self.names = tuple(names)
        self._exact = frozenset(self.names)
        self._similar = SimilarNames(self.names)
        self._folder = folder
        self._found: dict[str, frozenset[str]] = {}

    def find(self, reference: str) -> frozenset[str]:
        """Return the listed names of an image; empty if it is not listed. dog.jpg and dog.JPG may be two files."""
        if reference not in self._found:
            exact = self._exact.intersection(image_names(reference))
            self._found[reference] = exact or frozenset(
                name
                for name in self._similar.find(reference)
                if self._folder.find(name) == self._folder.find(reference)
            )
        return self._found[reference]


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
    path = PurePosixPath(normalize("NFC", name).replace("\\", "/"))
    return str(path.parent / plain_name(path.name)) if path.name else name


def _letters(name: str) -> str:
    return normalize("NFC", PurePosixPath(name).name).casefold()


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
