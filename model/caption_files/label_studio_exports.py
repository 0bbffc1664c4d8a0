"""Label Studio's own exports: JSON, JSON-MIN and CSV.

    JSON      [{"data": {"image": "/data/upload/1/0a1b2c3d-dog.jpg"}, "annotations": [{"was_cancelled", "result"}]}]
    JSON-MIN  [{"image": "/data/upload/1/0a1b2c3d-dog.jpg", "caption": "A dog runs.", "annotation_id", "lead_time"}]
    CSV       the same columns

The labeling config is not in an export. In JSON every text area of a whole image holds captions, as in the product. In
the other two a column called caption, or the only one that is left, holds them. One annotation has one caption for each
text area; its rows are the caption's lines. Skipped annotations have none.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.caption_files.row import CAPTION_KEYS, IMAGE_KEYS, Row, broken, text_in
from model.errors import CaptionFileError

_COLUMNS_OF_ITS_OWN = frozenset(
    ("id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement")
)
_MARKS = frozenset(("x", "points", "rle"))
_IMAGE = re.compile(
    r"/data/|[a-z0-9-]+://|data:image/|.*\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE | re.DOTALL
)

Record = Mapping[str, Any]


def is_export(columns: Collection[str]) -> bool:
    """Say whether these are the columns of Label Studio's CSV, or the keys of its JSON-MIN."""
    return "annotation_id" in columns and "lead_time" in columns


def is_task_list(document: Sequence[Any]) -> bool:
    """Say whether the first entry is a task as Label Studio's JSON has it."""
    return bool(document) and isinstance(document[0], dict) and {"data", "annotations"} <= document[0].keys()


def parse_tasks(tasks: Sequence[Any], path: Path) -> Iterator[Row]:
    for number, task in enumerate(tasks):
        try:
            rows = list(_rows_of_task(task, f"[{number}]"))
        except (KeyError, TypeError, AttributeError) as cause:
            expected = "expected a task with data and annotations, as Label Studio exports it"
            raise broken(path, f"[{number}]", expected, task) from cause
        yield from rows


def parse_records(records: Sequence[tuple[str, Record]], path: Path) -> Iterator[Row]:
    """Yield the captions of JSON-MIN or CSV.

    Args:
        records: each annotation with its place in the file.
        path: of the file, for messages.

    Raises:
        CaptionFileError: it is not certain which column holds the images or the captions.
    """
    columns = list(dict.fromkeys(name for _, record in records for name in record))
    free = [name for name in columns if name not in _COLUMNS_OF_ITS_OWN]
    images = [name for name in free if _holds_images(name, records)]
    image = _choose(IMAGE_KEYS, images, path, "images")
    caption = _choose(CAPTION_KEYS, [name for name in free if name not in images], path, "captions")
    for where, record in records:
        try:
            text = "\n".join(_texts(_unpacked(record.get(caption))))
            reference = record.get(image) or None
            key = f"{record.get('annotation_id', where)}/{text}"
            yield Row(image=reference and text_in(reference), caption=text, key=key, where=where)
        except TypeError as cause:
            raise broken(path, where, "expected the texts of a caption and the address of an image", record) from cause


def _rows_of_task(task: Record, where: str) -> Iterator[Row]:
    image = _image_of(task["data"])
    for at, annotation in enumerate(task["annotations"]):
        if annotation.get("was_cancelled"):
            continue
        place = f"{where}.annotations[{at}]"
        for from_name, lines in (_lines_of(annotation["result"]) or {"": []}).items():
            key = f"{annotation.get('id', place)}/{from_name}"
            yield Row(image=image, caption="\n".join(lines), key=key, where=place)


def _image_of(task_data: Record) -> str | None:
    texts = {name: value for name, value in task_data.items() if isinstance(value, str) and value.strip()}
    named = next((texts[name] for name in IMAGE_KEYS if name in texts), None)
    return named or next((value for value in texts.values() if _IMAGE.match(value)), None)


def _lines_of(result: Sequence[Record]) -> dict[str, list[str]]:
    """Return the lines of each text area; one that describes a marked part of the image has that part's place too."""
    lines: dict[str, list[str]] = {}
    for region in result:
        if region["type"] == "textarea" and not _MARKS & region["value"].keys():
            lines.setdefault(region["from_name"], []).extend(_texts(region["value"]))
    return lines


def _texts(value: Any) -> list[str]:
    """Return the texts of a text area: a text, {"text": [...]}, or a list of these."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if value is None:
        return []
    return [text for entry in value for text in _texts(entry)] if isinstance(value, list) else [text_in(value)]


def _unpacked(cell: Any) -> Any:
    """Return what a cell of CSV holds as JSON, if it does. Several texts are written like this, a single one is not."""
    if not (isinstance(cell, str) and cell.startswith(("[", "{"))):
        return cell
    try:
        value = json.loads(cell)
        _texts(value)
    except (ValueError, TypeError, RecursionError):
        return cell
    return value


def _holds_images(name: str, records: Sequence[tuple[str, Record]]) -> bool:
    if name in IMAGE_KEYS:
        return True
    values = (record.get(name) for _, record in records)
    first = next((value for value in values if value), None)
    return isinstance(first, str) and _IMAGE.match(first) is not None


def _choose(usual: Sequence[str], columns: Sequence[str], path: Path, what: str) -> str:
    chosen = next((name for name in usual if name in columns), None) or (columns[0] if len(columns) == 1 else None)
    if chosen is None and columns:
        raise CaptionFileError(
            f"{path}: {what} may be in the columns {', '.join(columns)}; rename the right one to {usual[0]}, or export "
            "JSON from Label Studio"
        )
    if chosen is None:
        raise CaptionFileError(f"{path}: no column holds {what}; name it {usual[0]}, or export JSON from Label Studio")
    return chosen
