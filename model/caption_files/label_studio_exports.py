"""Label Studio's own exports: JSON, JSON-MIN and CSV.

    JSON      [{"data": {"image": "/data/upload/1/0a1b2c3d-dog.jpg"}, "annotations": [{"was_cancelled", "result"}]}]
    JSON-MIN  [{"image": "/data/upload/1/0a1b2c3d-dog.jpg", "caption": "A dog runs.", "annotation_id", "lead_time"}]
    CSV       the same columns

The labeling config is not in an export. In JSON every text area of a whole image holds captions, as in the product, but
not those whose name says that they hold something else (`notes`, `ocr`). In the other two a column called caption, or
the only one that is left, holds them. One annotation has one caption for each text area; its rows are the caption's
lines. Skipped annotations have none.

If captions describe several images of a task, each belongs to the image whose key in the data is the name of the Image
tag. Where the names differ from the keys, the task is left out.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.caption_files.field_names import has_other_purpose
from model.caption_files.row import CAPTION_KEYS, IMAGE_KEYS, Row, broken, text_in
from model.errors import CaptionFileError

UNCERTAIN_PICTURE = "not certain which picture"
REMARK = "texts of fields that by their name hold no captions"

_COLUMNS_OF_ITS_OWN = frozenset(
    ("id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement")
)
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
    """Yield the captions of Label Studio's JSON.

    Raises:
        CaptionFileError: an entry is not a task.
    """
    read: list[_Task] = []
    for number, task in enumerate(tasks):
        try:
            read.append(_parse_task(task, f"[{number}]"))
        except (KeyError, TypeError, AttributeError) as cause:
            expected = "expected a task with data and annotations, as Label Studio exports it"
            raise broken(path, f"[{number}]", expected, task) from cause
    # Of all tasks, because one annotator may describe the first picture of a task only.
    described = {text.to_name for task in read for text in task.texts if text.is_caption}
    for task in read:
        yield from _rows_of_task(task, described)


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
    texts = [name for name in free if name not in images]
    # A column that is left alone and is called notes is not taken for captions without a word.
    caption = _choose(CAPTION_KEYS, texts, path, "captions", is_sure=not any(map(has_other_purpose, texts)))
    for where, record in records:
        try:
            text = "\n".join(_texts(_unpacked(record.get(caption))))
            reference = record.get(image) or None
            key = f"{record.get('annotation_id', where)}/{text}"
            yield Row(image=reference and text_in(reference), caption=text, key=key, where=where)
        except TypeError as cause:
            raise broken(path, where, "expected the texts of a caption and the address of an image", record) from cause


@dataclass(frozen=True, kw_only=True)
class _Text:
    """What a text area has in one annotation."""

    from_name: str
    to_name: str
    lines: tuple[str, ...]
    where: str
    key: str

    @property
    def is_caption(self) -> bool:
        return not has_other_purpose(self.from_name)


@dataclass(frozen=True, kw_only=True)
class _Task:
    where: str
    fields: frozenset[str]
    """Keys of its data."""
    images: Mapping[str, str]
    """Those of them that hold an image; the likeliest one first."""
    texts: tuple[_Text, ...]
    """Of whole images, in all annotations."""
    empty: tuple[str, ...]
    """Places of annotations without a caption."""


def _parse_task(task: Record, where: str) -> _Task:
    texts: list[_Text] = []
    empty: list[str] = []
    for at, annotation in enumerate(task["annotations"]):
        if annotation.get("was_cancelled"):
            continue
        place = f"{where}.annotations[{at}]"
        written = _texts_of(annotation["result"], place, str(annotation.get("id", place)))
        texts += written
        if not any(text.is_caption for text in written):
            empty.append(place)
    data = task["data"]
    return _Task(where=where, fields=frozenset(data), images=_images_of(data), texts=tuple(texts), empty=tuple(empty))


def _texts_of(result: Sequence[Record], where: str, key: str) -> list[_Text]:
    """Return the texts about whole images; the lines of a text area are together."""
    marked = {region.get("id") for region in result if _is_marked(region)} - {None}
    lines: dict[tuple[str, str], list[str]] = {}
    for region in result:
        if region["type"] == "textarea" and not _is_marked(region) and region.get("id") not in marked:
            names = text_in(region["from_name"]), text_in(region.get("to_name", ""))
            lines.setdefault(names, []).extend(_texts(region["value"]))
    return [
        _Text(from_name=of, to_name=to, lines=tuple(texts), where=where, key=f"{key}/{of}/{to}")
        for (of, to), texts in lines.items()
    ]


def _is_marked(region: Record) -> bool:
    """Say whether it has the place of a marked part of the image (x, points, vertices), and not an answer alone.

    A text about such a part has its place, too, or at least its id.
    """
    answer = "text" if region["type"] == "textarea" else region["type"]
    return bool((region.get("value") or {}).keys() - {answer})


def _rows_of_task(task: _Task, described: Collection[str]) -> Iterator[Row]:
    """Yield the captions of a task.

    Args:
        task: of the file.
        described: names of all images that the captions of the file describe.
    """
    usual = next(iter(task.images.values()), None)
    are_several = len(described) > 1
    are_keys = task.fields.issuperset(described)
    if are_several and not are_keys and len(task.images) > 1:
        yield Row(image=None, caption="", key=task.where, where=task.where, left_out=UNCERTAIN_PICTURE)
        return
    for text in task.texts:
        image = task.images.get(text.to_name, None if are_several and are_keys else usual)
        caption = "\n".join(text.lines)
        if text.is_caption:
            yield Row(image=image, caption=caption, key=text.key, where=text.where)
        elif caption:
            where = f"{text.where} {text.from_name}"
            yield Row(image=image, caption=caption, key=text.key, where=where, left_out=REMARK)
    for where in task.empty:
        yield Row(image=usual, caption="", key=where, where=where)


def _images_of(task_data: Record) -> dict[str, str]:
    texts = {name: value for name, value in task_data.items() if isinstance(value, str) and value.strip()}
    named = {name: texts[name] for name in IMAGE_KEYS if name in texts}
    return named | {name: value for name, value in texts.items() if _IMAGE.match(value)}


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


def _choose(usual: Sequence[str], columns: Sequence[str], path: Path, what: str, *, is_sure: bool = True) -> str:
    """Return the column with a usual name, or the only one if `is_sure`."""
    only = columns[0] if len(columns) == 1 and is_sure else None
    chosen = next((name for name in usual if name in columns), None) or only
    if chosen is None and columns:
        raise CaptionFileError(
            f"{path}: {what} may be in the columns {', '.join(columns)}; rename the right one to {usual[0]}, or export "
            "JSON from Label Studio"
        )
    if chosen is None:
        raise CaptionFileError(f"{path}: no column holds {what}; name it {usual[0]}, or export JSON from Label Studio")
    return chosen
