"""Parses captions files of these formats:

    CSV            a header row with the columns image and caption; commas, semicolons, tabs or bars between them
    JSONL          {"image": "picture.jpg", "caption": "A dog runs."}   or "captions": [...]
    Hugging Face   metadata.jsonl, .csv or .parquet with file_name and text
    Flickr         picture.jpg#0<TAB>A dog runs.            (in Flickr8k-CN `picture.jpg#zhc#0 ...`)
    COCO           {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}
    Karpathy       {"images": [{"filename", "filepath", "split", "sentences": [{"sentid", "raw"}]}]}
                   dataset_coco.json and dataset_flickr8k.json of https://cs.stanford.edu/people/karpathy/deepimagesent
    Label Studio   its exports JSON, JSON-MIN and CSV (label_studio_exports.py)

The content shows the format. An error names the line that is wrong.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from model.caption_files.documents import is_karpathy, parse_coco, parse_json, parse_karpathy, parse_list
from model.caption_files.file_text import decode_text, read_bytes
from model.caption_files.row import Row
from model.caption_files.tables import (
    delimiter_of,
    is_flickr,
    is_jsonl,
    parse_csv,
    parse_flickr,
    parse_jsonl,
    parse_parquet,
)
from model.errors import CaptionFileError

_PARQUET = b"PAR1"
_SEPARATOR_LINE = re.compile(r"\s*sep=.(?=\r?\n)", re.IGNORECASE)
"""With it Excel names the delimiter before the header."""


def parse_rows(path: Path, split: str | None = None) -> Iterator[Row]:
    """Yield the captions of a file of any known format, in its order. `split` selects a part of a Karpathy file.

    Raises:
        CaptionFileError: the file is missing, has no known format, a broken line or no such split.
    """
    content = read_bytes(path)
    if content.startswith(_PARQUET):
        rows = parse_parquet(path)
    else:
        text = _SEPARATOR_LINE.sub("", decode_text(content, path), count=1)
        first = next((line for line in text.splitlines() if line.strip()), "")
        if first.lstrip().startswith(("{", "[")) and not is_jsonl(first):
            document = parse_json(text, path)
            if is_karpathy(document):
                return parse_karpathy(document, path, split)
            rows = parse_list(document, path) if isinstance(document, list) else parse_coco(document, path)
        else:
            rows = _parse_lines(text, first, path)
    if split is not None:
        raise CaptionFileError(f"{path} has no splits to take {split!r} from: list the images of the split in --names")
    return rows


def _parse_lines(text: str, first: str, path: Path) -> Iterator[Row]:
    if first.lstrip().startswith("{"):
        return parse_jsonl(text, path)
    if is_flickr(first):
        return parse_flickr(text, path)
    if delimiter := delimiter_of(first):
        return parse_csv(text, path, delimiter)
    raise CaptionFileError(
        f"{path} has no known format: the first line must be like 'picture.jpg#0<TAB>caption' (Flickr), a header with "
        "the columns image and caption, or file_name and text, with commas, semicolons or tabs between them (CSV), or "
        f"JSON (COCO, Karpathy, JSONL, an export of Label Studio); got {first[:80]!r}"
    )
