"""Writes captions files that other programs read: COCO captions, and a data set of Hugging Face."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

Layout = Literal["coco", "huggingface"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
FILES: Mapping[Layout, str] = {"coco": "captions.json", "huggingface": "metadata.jsonl"}
IMAGE_FOLDERS: Mapping[Layout, str] = {"coco": "images", "huggingface": "."}
"""Where the images are, from the directory of the file. Hugging Face's imagefolder wants them beside it."""


def write_captions(folder: Path, layout: Layout, captions: Mapping[str, Sequence[str]]) -> Path:
    """Write the captions of each image, by file name or address, into a directory; return the file."""
    file = folder / FILES[layout]
    text = _coco(captions) if layout == "coco" else _huggingface(captions)
    file.write_text(text, "utf-8")
    return file


def _coco(captions: Mapping[str, Sequence[str]]) -> str:
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions, start=1)]
    pairs = [(number, text) for number, texts in enumerate(captions.values(), start=1) for text in texts]
    annotations = [
        {"id": number, "image_id": image_id, "caption": text} for number, (image_id, text) in enumerate(pairs, start=1)
    ]
    return json.dumps({"images": images, "annotations": annotations}, ensure_ascii=False, indent=1) + "\n"


def _huggingface(captions: Mapping[str, Sequence[str]]) -> str:
    rows = ({"file_name": name, "text": text} for name, texts in captions.items() for text in texts)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
