"""Parses captions files of these formats:

    Flickr    picture.jpg#0<TAB>A dog runs.            (in Flickr8k-CN `picture.jpg#zhc#0 ...`)
    COCO      {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}
    Karpathy  {"images": [{"filename", "filepath", "split", "sentences": [{"sentid", "raw"}]}]}
              dataset_coco.json and dataset_flickr8k.json of https://cs.stanford.edu/people/karpathy/deepimagesent
    CSV       a header row with the columns image and caption
    JSONL     {"image": "picture.jpg", "caption": "A dog runs."}   or "captions": [...]

The content shows the format. An error names the line that is wrong.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import CaptionFileError

_FLICKR = re.compile(r"(?P<key>(?P<image>[^#\t]+)#(?:\w+#)?\d+)[\t ](?P<caption>.*)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One caption of a file."""

    image: str
    caption: str
    key: str
    """Equal for two rows if they are the same caption."""
    where: str


def parse_rows(path: Path, split: str | None = None) -> Iterator[Row]:
    """Yield the captions of a file of any known format, in its order. `split` selects a part of a Karpathy file.

    Raises:
        CaptionFileError: the file is missing, has no known format, a broken line or no such split.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.startswith(("{", "[")) and not _is_jsonl(first):
        document = _parse_json(text, path)
        if _is_karpathy(document):
            return _parse_karpathy(document, path, split)
        rows = _parse_coco(document, path)
    elif first.startswith(("{", "[")):
        rows = _parse_jsonl(text, path)
    elif _FLICKR.fullmatch(first):
        rows = _parse_flickr(text, path)
    elif {"image", "caption"} <= set(_csv_header(next(csv.reader([first]), []))):
        rows = _parse_csv(text, path)
    else:
        raise CaptionFileError(
            f"{path} has no known format: the first line must be like 'picture.jpg#0<TAB>caption' (Flickr), a header "
            f"with the columns image and caption (CSV), or JSON (COCO, Karpathy, JSONL); got {first[:80]!r}"
        )
    if split is not None:
        raise CaptionFileError(f"{path} has no splits to take {split!r} from: list the images of the split in --names")
    return rows


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as cause:
        raise CaptionFileError(f"cannot read {path}: {cause}") from cause
    except UnicodeDecodeError as cause:
        line = cause.object[: cause.start].count(b"\n") + 1
        raise CaptionFileError(f"{path}, line {line}: not UTF-8 text ({cause.reason})") from cause


def _parse_flickr(text: str, path: Path) -> Iterator[Row]:
    for number, line in _lines(text):
        match = _FLICKR.fullmatch(line)
        if not match:
            raise _broken(path, number, "expected 'picture.jpg#0<TAB>caption'", line)
        yield Row(**match.groupdict(), where=f"line {number}")


def _parse_csv(text: str, path: Path) -> Iterator[Row]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = _csv_header(next(row for row in rows if row))
        image, caption = header.index("image"), header.index("caption")
        for row in filter(None, rows):
            if len(row) != len(header):
                problem = f"expected {len(header)} columns, got {len(row)}"
                raise _broken(path, rows.line_num, problem, ",".join(row))
            yield Row(image=row[image].strip(), caption=row[caption], key=row[caption], where=f"line {rows.line_num}")
    except csv.Error as cause:
        raise CaptionFileError(f"{path}, line {rows.line_num}: not CSV ({cause})") from cause


def _parse_jsonl(text: str, path: Path) -> Iterator[Row]:
    for number, line in _lines(text):
        try:
            fields = json.loads(line)
            captions = fields["captions"] if "captions" in fields else [fields["caption"]]
            rows = [(_text(fields["image"]), _text(caption)) for caption in captions]
        except (ValueError, KeyError, TypeError) as cause:
            expected = 'expected {"image": "...", "caption": "..."} or "captions": ["..."]'
            raise _broken(path, number, expected, line) from cause
        for image, caption in rows:
            yield Row(image=image, caption=caption, key=caption, where=f"line {number}")


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise CaptionFileError(f"{path}, line {cause.lineno}: not JSON ({cause.msg})") from cause


def _parse_coco(document: Any, path: Path) -> Iterator[Row]:
    try:
        names = {image["id"]: _text(image["file_name"]) for image in document["images"]}
        annotations = document["annotations"]
    except (KeyError, TypeError) as cause:
        raise CaptionFileError(
            f"{path} is not in COCO's captions format, which has images with id and file_name, and annotations"
        ) from cause
    for number, annotation in enumerate(annotations):
        try:
            yield Row(
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


def _parse_karpathy(document: Any, path: Path, split: str | None) -> Iterator[Row]:
    images = [_karpathy_image(image, number, path) for number, image in enumerate(document["images"])]
    counts = Counter(split for split, _ in images)
    selected = set(split.split(",")) if split else set(counts) if len(counts) == 1 else set()
    if not selected or selected - counts.keys():
        choices = ", ".join(f"{name} ({count} images)" for name, count in sorted(counts.items()))
        problem = f"no split {', '.join(sorted(selected - counts.keys()))!r}" if selected else "several splits"
        raise CaptionFileError(f"{path} has {problem}: choose one of {choices} with --split")
    return (row for split, rows in images if split in selected for row in rows)


def _karpathy_image(image: Any, number: int, path: Path) -> tuple[str, list[Row]]:
    """Return the split and the captions of an image."""
    where = f"images[{number}]"
    try:
        name = str(PurePosixPath(image.get("filepath", ""), _text(image["filename"])))
        rows = [
            Row(
                image=name,
                caption=_text(sentence["raw"]),
                key=str(sentence.get("sentid", at)),
                where=f"{where}.sentences[{at}]",
            )
            for at, sentence in enumerate(image["sentences"])
        ]
        return _text(image["split"]), rows
    except (KeyError, TypeError, AttributeError) as cause:
        raise CaptionFileError(
            f"{path}, {where}: expected filename, split and sentences with raw, got {str(image)[:80]}"
        ) from cause


def _is_karpathy(document: Any) -> bool:
    try:
        return "sentences" in document["images"][0]
    except (KeyError, TypeError, IndexError):
        return False


def _is_jsonl(first_line: str) -> bool:
    try:
        return "image" in json.loads(first_line)
    except ValueError:
        return False


def _csv_header(row: list[str]) -> list[str]:
    return [name.strip().lower() for name in row]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines, which also splits at U+2028 and similar characters within a caption.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _broken(path: Path, number: int, expected: str, line: str) -> CaptionFileError:
    return CaptionFileError(f"{path}, line {number}: {expected}, got {line[:80]!r}")
