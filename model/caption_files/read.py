"""Reads captioned images: the entries of a captions file whose images exist. The others are counted."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.caption_files.file_text import read_text
from model.caption_files.formats import parse_rows
from model.caption_files.image_names import ImageFolder, NameList, may_differ
from model.caption_files.row import Row
from model.errors import CaptionFileError

FIRST_CASES = 3

_SPACE_BEFORE_STOP = re.compile(r"\s+([.,])(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """A captions file and the directory of its images."""

    captions: Path
    """The captions file, in any known format."""
    images: Path
    """The directory of the images that the file names."""
    names: Path | None = None
    """File of image names, one per line, to take only these. None takes all."""
    split: str | None = None
    """Split of a Karpathy file, or several with commas between, such as "train,restval"."""


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """One image file and people's captions for it."""

    file: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """Entries that could not be used, by reason."""

    cases: dict[str, list[str]] = field(default_factory=dict)
    """Entries by reason, in the order of the file."""

    def add(self, reason: str, case: str) -> None:
        self.cases.setdefault(reason, []).append(case)

    def add_all(self, other: "LeftOut") -> None:
        for reason, cases in other.cases.items():
            self.cases.setdefault(reason, []).extend(cases)

    def counts(self) -> dict[str, int]:
        return {reason: len(cases) for reason, cases in self.cases.items()}

    def summary(self) -> str:
        """Return one line with counts and the first entries, or "nothing left out"."""
        parts = []
        for reason, cases in self.cases.items():
            first = ", ".join(cases[:FIRST_CASES]) + (", ..." if len(cases) > FIRST_CASES else "")
            parts.append(f"{reason}: {len(cases)} ({first})")
        return "left out: " + "; ".join(parts) if parts else "nothing left out"


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Captioned images that can be used, and the entries that cannot."""

    images: tuple[CaptionedImage, ...]
    left_out: LeftOut


def read_captions(source: CaptionSource, *, strict: bool = False) -> CaptionSet:
    """Read a captions file of any known format. The images keep the order of the file.

    Args:
        strict: stop instead of leaving anything out.

    Raises:
        CaptionFileError: the file is missing, has no known format, a broken line or no such split; or nothing in it can
            be used; or something must be left out and `strict` is set.
    """
    folder = ImageFolder(source.images)
    names = NameList(read_names(source.names), folder) if source.names else None
    left_out = LeftOut()
    captions = captions_by_image(parse_rows(source.captions, source.split), left_out, names)
    images = tuple(_present_images(captions, folder, left_out))
    if names is not None:
        with_captions = {name for image in captions for name in names.find(image)}
        for name in names.names:
            if name not in with_captions:
                left_out.add("listed images without captions", name)
    if strict and left_out.cases:
        raise CaptionFileError(f"{source.captions}: {left_out.summary()}")
    if not images:
        raise CaptionFileError(
            f"{source.captions}: no caption has an image below {source.images}; {left_out.summary()}"
        )
    return CaptionSet(images=images, left_out=left_out)


def tidy_caption(caption: str) -> str:
    """Return the caption as one line, without spaces before full stops and commas."""
    return _SPACE_BEFORE_STOP.sub(r"\1", " ".join(caption.split()))


def captions_by_image(rows: Iterable[Row], left_out: LeftOut, names: NameList | None = None) -> dict[str, list[str]]:
    """Return the captions of each image, tidy, by the name in the file. What cannot be used is added to `left_out`."""
    captions: dict[str, list[str]] = {}
    keys: set[tuple[str, str]] = set()
    for row in rows:
        if names is not None and row.image is not None and not names.find(row.image):
            continue
        if row.left_out or row.image is None:
            left_out.add(row.left_out or "captions without a known image", row.where)
            continue
        of_image = captions.setdefault(row.image, [])
        caption = tidy_caption(row.caption)
        if not caption:
            left_out.add("empty captions", row.where)
        elif (row.image, row.key) in keys:
            left_out.add("duplicate captions", row.where)
        else:
            keys.add((row.image, row.key))
            of_image.append(caption)
    return captions


def _present_images(
    captions: Mapping[str, list[str]], folder: ImageFolder, left_out: LeftOut
) -> Iterator[CaptionedImage]:
    """Yield each image file once, with the captions of all names that mean it."""
    names_of: dict[Path, list[str]] = {}
    for name in captions:
        file = folder.find(name)
        if file is None:
            left_out.add("missing images", folder.hint(name))
        else:
            names_of.setdefault(file, []).append(name)
    for file, names in names_of.items():
        if may_differ(names, file.name):
            for name in names:
                left_out.add(f"several pictures that {file.name} may be", name)
        elif texts := tuple(text for name in names for text in captions[name]):
            yield CaptionedImage(file=file, captions=texts)


def read_names(path: Path) -> dict[str, None]:
    """Return the names in their order, without repetitions; raises CaptionFileError if the file cannot be read."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return dict.fromkeys(line for line in lines if line)
