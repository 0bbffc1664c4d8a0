"""Captions files: which picture is described how.

    Flickr  picture.jpg#0<TAB>A dog runs.            (also `picture.jpg#zhc#0 ...`, as Flickr8k-CN has it)
    COCO    {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}
    CSV     a header row with the columns image and caption
    JSONL   {"image": "picture.jpg", "caption": "A dog runs."}   or "captions": [...]

The format is told from the content. Rows that cannot be used are left out and counted; a file that cannot
be understood stops with the line that is wrong.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import CaptionFileError

FIRST_CASES = 3

_FLICKR = re.compile(r"(?P<key>(?P<image>[^#\t]+)#(?:\w+#)?\d+)[\t ](?P<caption>.*)")
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


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One caption as a file has it."""

    image: str
    caption: str
    key: str
    """Equal for two rows that are the same caption twice."""
    where: str


def read_captions(source: CaptionSource, *, strict: bool = False) -> CaptionSet:
    """Read a captions file of any known format; images come in the order of the file.

    Args:
        source: the file, and the directory of the images.
        strict: stop instead of leaving anything out.

    Raises:
        CaptionFileError: the file is missing, of no known format or broken in some line; nothing in it can
            be used; or something would be left out and `strict` is set.
    """
    rows = _parse_rows(_read_text(source.captions), source.captions)
    names = _read_names(source.names) if source.names else None
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
    rows: Iterator[_Row], names: Mapping[str, None] | None, left_out: LeftOut
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


def _read_names(path: Path) -> dict[str, None]:
    """Return the names in order, each once."""
    lines = (line.strip() for line in _read_text(path).splitlines())
    return dict.fromkeys(line for line in lines if line)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as cause:
        raise CaptionFileError(f"cannot read {path}: {cause}") from cause
    except UnicodeDecodeError as cause:
        line = cause.object[: cause.start].count(b"\n") + 1
        raise CaptionFileError(f"{path}, line {line}: not UTF-8 text ({cause.reason})") from cause


def _parse_rows(text: str, path: Path) -> Iterator[_Row]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if _FLICKR.fullmatch(first):
        return _parse_flickr(text, path)
    if first.startswith(("{", "[")):
        return _parse_jsonl(text, path) if _is_jsonl(first) else _parse_coco(text, path)
    if {"image", "caption"} <= set(_csv_header(next(csv.reader([first]), []))):
        return _parse_csv(text, path)
    raise CaptionFileError(
        f"{path} is in no known format: the first line must be like 'picture.jpg#0<TAB>caption' (Flickr), "
        f"a header with the columns image and caption (CSV), or JSON (COCO, JSONL); got {first[:80]!r}"
    )


def _parse_flickr(text: str, path: Path) -> Iterator[_Row]:
    for number, line in _lines(text):
        match = _FLICKR.fullmatch(line)
        if not match:
            raise _broken(path, number, "expected 'picture.jpg#0<TAB>caption'", line)
        yield _Row(**match.groupdict(), where=f"line {number}")


def _parse_csv(text: str, path: Path) -> Iterator[_Row]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = _csv_header(next(row for row in rows if row))
        image, caption = header.index("image"), header.index("caption")
        for row in filter(None, rows):
            if len(row) != len(header):
                problem = f"expected {len(header)} columns, got {len(row)}"
                raise _broken(path, rows.line_num, problem, ",".join(row))
            yield _Row(image=row[image].strip(), caption=row[caption], key=row[caption], where=f"line {rows.line_num}")
    except csv.Error as cause:
        raise CaptionFileError(f"{path}, line {rows.line_num}: not CSV ({cause})") from cause


def _parse_jsonl(text: str, path: Path) -> Iterator[_Row]:
    for number, line in _lines(text):
        try:
            fields = json.loads(line)
            captions = fields["captions"] if "captions" in fields else [fields["caption"]]
            rows = [(_text(fields["image"]), _text(caption)) for caption in captions]
        except (ValueError, KeyError, TypeError) as cause:
            expected = 'expected {"image": "...", "caption": "..."} or "captions": ["..."]'
            raise _broken(path, number, expected, line) from cause
        for image, caption in rows:
            yield _Row(image=image, caption=caption, key=caption, where=f"line {number}")


def _parse_coco(text: str, path: Path) -> Iterator[_Row]:
    try:
        document = json.loads(text)
        names = {image["id"]: _text(image["file_name"]) for image in document["images"]}
        annotations = document["annotations"]
    except json.JSONDecodeError as cause:
        raise CaptionFileError(f"{path}, line {cause.lineno}: not JSON ({cause.msg})") from cause
    except (KeyError, TypeError) as cause:
        raise CaptionFileError(
            f"{path} is not in COCO's captions format, which has images with id and file_name, and annotations"
        ) from cause
    for number, annotation in enumerate(annotations):
        try:
            yield _Row(
                image=names[annotation["image_id"]],
                caption=_text(annotation["caption"]),
                key=str(annotation.get("id", number)),
                where=f"annotations[{number}]",
            )
        except (KeyError, TypeError, AttributeError) as cause:
            raise CaptionFileError(
                f"{path}, annotations[{number}]: expected a caption and the image_id of a listed image, "
                f"got {str(annotation)[:80]}"
            ) from cause


def _is_jsonl(first_line: str) -> bool:
    try:
        return "image" in json.loads(first_line)
    except ValueError:
        return False


def _csv_header(row: list[str]) -> list[str]:
    return [name.strip().lower() for name in row]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: a caption may hold U+2028 and its like, which end no line of a file.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _broken(path: Path, number: int, expected: str, line: str) -> CaptionFileError:
    return CaptionFileError(f"{path}, line {number}: {expected}, got {line[:80]!r}")
