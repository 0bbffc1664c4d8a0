"""Captioned images: those of a captions file whose pictures are there, and a count of what cannot be used."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.caption_files.formats import Row, parse_rows, read_text
from model.errors import CaptionFileError

FIRST_CASES = 3

_SPACE_BEFORE_STOP = re.compile(r"\s+([.,])(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """Where captioned images are."""

    captions: Path
    """The captions file, in any of the known formats."""
    images: Path
    """The directory that the file's image names are relative to."""
    names: Path | None = None
    """A list of image names, one per line: only these are taken. None takes all."""
    split: str | None = None
    """Of a Karpathy file the split to take, or several with commas between, such as "train,restval"."""


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """One image file and what people wrote about it."""

    file: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """What could not be used, by reason."""

    cases: dict[str, list[str]] = field(default_factory=dict)
    """Reason to what was left out for it, in the order of the file."""

    def add(self, reason: str, case: str) -> None:
        self.cases.setdefault(reason, []).append(case)

    def add_all(self, other: "LeftOut") -> None:
        for reason, cases in other.cases.items():
            self.cases.setdefault(reason, []).extend(cases)

    def counts(self) -> dict[str, int]:
        return {reason: len(cases) for reason, cases in self.cases.items()}

    def summary(self) -> str:
        """Return one line with counts and the first cases, or "nothing left out"."""
        parts = []
        for reason, cases in self.cases.items():
            first = ", ".join(cases[:FIRST_CASES]) + (", ..." if len(cases) > FIRST_CASES else "")
            parts.append(f"{reason}: {len(cases)} ({first})")
        return "left out: " + "; ".join(parts) if parts else "nothing left out"


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Captioned images that are there to be used, and a count of what was not."""

    images: tuple[CaptionedImage, ...]
    left_out: LeftOut


def read_captions(source: CaptionSource, *, strict: bool = False) -> CaptionSet:
    """Read a captions file of any known format; images come in the order of the file.

    Args:
        source: the file, and the directory of the images.
        strict: stop instead of leaving anything out.

    Raises:
        CaptionFileError: the file is missing, of no known format or broken in some line; it has no such split;
            nothing in it can be used; or something would be left out and `strict` is set.
    """
    rows = parse_rows(source.captions, source.split)
    names = read_names(source.names) if source.names else None
    left_out = LeftOut()
    captions = _captions_by_image(rows, names, left_out)
    images = tuple(_present_images(captions, source.images, left_out))
    for name in names or ():
        if name not in captions:
            left_out.add("listed images without captions", name)
    if strict and left_out.cases:
        raise CaptionFileError(f"{source.captions}: {left_out.summary()}")
    if not images:
        raise CaptionFileError(
            f"{source.captions}: no caption has an image below {source.images}; {left_out.summary()}"
        )
    return CaptionSet(images=images, left_out=left_out)


def tidy_caption(caption: str) -> str:
    """Return the caption as one line, without the space that corpora put before a full stop or comma."""
    return _SPACE_BEFORE_STOP.sub(r"\1", " ".join(caption.split()))


def _captions_by_image(
    rows: Iterator[Row], names: Mapping[str, None] | None, left_out: LeftOut
) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if names is not None and row.image not in names:
            continue
        found = captions.setdefault(row.image, [])
        caption = tidy_caption(row.caption)
        if not caption:
            left_out.add("empty captions", row.where)
        elif (row.image, row.key) in seen:
            left_out.add("duplicate captions", row.where)
        else:
            seen.add((row.image, row.key))
            found.append(caption)
    return captions


def _present_images(captions: Mapping[str, list[str]], folder: Path, left_out: LeftOut) -> Iterator[CaptionedImage]:
    for name, texts in captions.items():
        file = folder / name
        if not file.is_file():
            left_out.add("missing images", name)
        elif texts:
            yield CaptionedImage(file=file, captions=tuple(texts))


def read_names(path: Path) -> dict[str, None]:
    """Return the names in order, each once."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return dict.fromkeys(line for line in lines if line)
