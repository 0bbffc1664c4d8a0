"""Captions files that are one JSON document: COCO, Karpathy, Label Studio's exports and lists."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from model.caption_files.label_studio_exports import is_export, is_task_list, parse_records, parse_tasks
from model.caption_files.row import Row, broken, text_in, text_or_empty
from model.caption_files.tables import rows_of
from model.errors import CaptionFileError


def parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise CaptionFileError(f"{path}, line {cause.lineno}: not JSON ({cause.msg})") from cause
    except RecursionError as cause:
        raise CaptionFileError(f"{path}: its JSON is nested too deeply for a captions file") from cause


def parse_list(entries: Sequence[Any], path: Path) -> Iterator[Row]:
    """Yield the captions of Label Studio's JSON or JSON-MIN, or of a list of objects with image and caption."""
    if is_task_list(entries):
        yield from parse_tasks(entries, path)
    elif all(isinstance(entry, dict) for entry in entries) and any(map(_is_of_export, entries)):
        yield from parse_records([(f"[{number}]", entry) for number, entry in enumerate(entries)], path)
    else:
        yield from _parse_objects(entries, path)


def parse_coco(document: Any, path: Path) -> Iterator[Row]:
    """Yield the captions of a COCO file; of an image that it does not list by a name, with image None."""
    try:
        names = _coco_names(document["images"])
        annotations = document["annotations"]
    except (KeyError, TypeError, AttributeError) as cause:
        raise CaptionFileError(
            f"{path} is not in COCO's captions format, which has images with id and file_name, and annotations"
        ) from cause
    for number, annotation in enumerate(annotations):
        try:
            yield Row(
                image=names.get(annotation["image_id"]),
                caption=text_or_empty(annotation["caption"]),
                key=str(annotation.get("id", number)),
                where=f"annotations[{number}]",
            )
        except (KeyError, TypeError, AttributeError) as cause:
            expected = "expected a caption and an image_id (COCO's captions are in files named captions_...)"
            raise broken(path, f"annotations[{number}]", expected, annotation) from cause


def is_karpathy(document: Any) -> bool:
    try:
        return "sentences" in document["images"][0]
    except (KeyError, TypeError, IndexError):
        return False


def parse_karpathy(document: Any, path: Path, split: str | None) -> Iterator[Row]:
    images = [_karpathy_image(image, number, path) for number, image in enumerate(document["images"])]
    counts = Counter(split for split, _ in images)
    selected = set(split.split(",")) if split else set(counts) if len(counts) == 1 else set()
    if not selected or selected - counts.keys():
        choices = ", ".join(f"{name} ({count} images)" for name, count in sorted(counts.items()))
        problem = f"no split {', '.join(sorted(selected - counts.keys()))!r}" if selected else "several splits"
        raise CaptionFileError(f"{path} has {problem}: choose one of {choices} with --split")
    return (row for split, rows in images if split in selected for row in rows)


def _coco_names(images: Any) -> dict[Any, str | None]:
    """Return the names of images by id; None for one without a name. If none has a name, it is another format."""
    names = {image["id"]: text_or_empty(image.get("file_name")) or None for image in images}
    if names and not any(names.values()):
        raise KeyError("file_name")
    return names


def _is_of_export(entry: dict[str, Any]) -> bool:
    return is_export(entry) or "annotation_id" in entry


def _parse_objects(entries: Sequence[Any], path: Path) -> Iterator[Row]:
    for number, entry in enumerate(entries):
        try:
            rows = rows_of(entry, f"[{number}]")
        except (KeyError, TypeError) as cause:
            expected = 'expected {"image": "...", "caption": "..."}, or a task as Label Studio exports it'
            raise broken(path, f"[{number}]", expected, entry) from cause
        yield from rows


def _karpathy_image(image: Any, number: int, path: Path) -> tuple[str, list[Row]]:
    """Return the split and the captions of an image."""
    where = f"images[{number}]"
    try:
        name = str(PurePosixPath(image.get("filepath", ""), text_in(image["filename"])))
        rows = [
            Row(
                image=name,
                caption=text_or_empty(sentence["raw"]),
                key=str(sentence.get("sentid", at)),
                where=f"{where}.sentences[{at}]",
            )
            for at, sentence in enumerate(image["sentences"])
        ]
        return text_in(image["split"]), rows
    except (KeyError, TypeError, AttributeError) as cause:
        raise broken(path, where, "expected filename, split and sentences with raw", image) from cause
