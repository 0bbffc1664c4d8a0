"""Captions files with a caption in each row: Flickr, CSV, JSONL and Parquet."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.caption_files.label_studio_exports import is_export, parse_records
from model.caption_files.row import CAPTION_KEYS, IMAGE_KEYS, Row, broken, text_in, text_or_empty
from model.errors import CaptionFileError

DELIMITERS = ",;\t|"

_FLICKR = re.compile(r"(?P<key>(?P<image>[^#\t]+)#(?:\w+#)?\d+)[\t ](?P<caption>.*)")
_JSONL_FORMS = '{"image": "...", "caption": "..."} or "captions": ["..."], or {"file_name": "...", "text": "..."}'


def is_flickr(first_line: str) -> bool:
    return _FLICKR.fullmatch(first_line) is not None


def parse_flickr(text: str, path: Path) -> Iterator[Row]:
    for number, line in _lines(text):
        match = _FLICKR.fullmatch(line)
        if not match:
            raise broken(path, f"line {number}", "expected 'picture.jpg#0<TAB>caption'", line)
        yield Row(**match.groupdict(), where=f"line {number}")


def delimiter_of(first_line: str) -> str | None:
    """Return what separates the columns of a table with captions; None if the line is no header of one."""
    for delimiter in DELIMITERS:
        header = _header(next(csv.reader([first_line], delimiter=delimiter), []))
        if is_export(header) or (_first_of(IMAGE_KEYS, header) and _first_of(CAPTION_KEYS, header)):
            return delimiter
    return None


def parse_csv(text: str, path: Path, delimiter: str) -> Iterator[Row]:
    rows = _csv_rows(text, path, delimiter)
    _, header = next(rows)
    columns = _header(header)
    if is_export(columns):
        yield from parse_records([(where, dict(zip(columns, row, strict=True))) for where, row in rows], path)
        return
    image = columns.index(_first_of(IMAGE_KEYS, columns))
    caption = _first_of(CAPTION_KEYS, columns)
    captions = [at for at, name in enumerate(columns) if name == caption]  # the header may repeat it
    for where, row in rows:
        for at in captions:
            yield Row(image=row[image].strip(), caption=row[at], key=row[at], where=where)


def is_jsonl(first_line: str) -> bool:
    """Say whether the line is an object by itself; COCO and Karpathy on one line are not meant."""
    try:
        value = json.loads(first_line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "images" not in value


def parse_jsonl(text: str, path: Path) -> Iterator[Row]:
    for number, line in _lines(text):
        try:
            rows = rows_of(json.loads(line), f"line {number}")
        except (ValueError, KeyError, TypeError, RecursionError) as cause:
            raise broken(path, f"line {number}", f"expected {_JSONL_FORMS}", line) from cause
        yield from rows


def rows_of(fields: Mapping[str, Any], where: str) -> list[Row]:
    """Return the captions of an object that names an image and has one caption or a list of them; null is an empty one.

    Raises:
        KeyError, TypeError: it is something else.
    """
    image = text_in(fields[_first_of(IMAGE_KEYS, fields)])
    captions = fields[_first_of(CAPTION_KEYS, fields)]
    texts = [text_or_empty(caption) for caption in (captions if isinstance(captions, list) else [captions])]
    return [Row(image=image, caption=caption, key=caption, where=where) for caption in texts]


def parse_parquet(path: Path) -> Iterator[Row]:
    """Yield the captions of a Parquet file, read by pyarrow if it is installed.

    Raises:
        CaptionFileError: pyarrow is missing, or the file is damaged or has other columns.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as cause:
        raise CaptionFileError(
            f"{path} is a Parquet file: install the extra parquet (`pip install pyarrow` is enough), or save it as CSV"
        ) from cause
    try:
        names = parquet.read_schema(path).names
        image, caption = _first_of(IMAGE_KEYS, names), _first_of(CAPTION_KEYS, names)
        records = parquet.read_table(path, columns=[image, caption]).to_pylist() if image and caption else []
    except (ArrowException, OSError) as cause:
        raise CaptionFileError(f"{path} is a Parquet file that cannot be read: {cause}") from cause
    if not (image and caption):
        expected = "expected the columns image and caption, or file_name and text"
        raise broken(path, "columns", expected, ", ".join(names))
    for number, record in enumerate(records, start=1):
        try:
            yield from rows_of(record, f"row {number}")
        except (KeyError, TypeError) as cause:
            expected = "expected the name of an image file (pictures inside of the file are not read) and a caption"
            raise broken(path, f"row {number}", expected, record) from cause


def _csv_rows(text: str, path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row and its cells, the header first. All rows have as many cells as the header."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = 0
    try:
        for row in filter(None, rows):
            width = width or len(row)
            if len(row) != width:
                advice = f" (a cell that contains {delimiter!r} needs quotes)" if len(row) > width else ""
                problem = f"expected {width} columns, got {len(row)}{advice}"
                raise broken(path, f"line {rows.line_num}", problem, delimiter.join(row))
            yield f"line {rows.line_num}", row
    except csv.Error as cause:
        raise CaptionFileError(f"{path}, line {rows.line_num}: not CSV ({cause})") from cause


def _header(row: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in row]


def _first_of(names: Sequence[str], there: Sequence[str] | Mapping[str, Any]) -> str:
    return next((name for name in names if name in there), "")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines, which also splits at U+2028 and similar characters within a caption. Old programs of the Mac end
    # lines with a carriage return alone.
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")
