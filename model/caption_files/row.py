"""One caption of a captions file, and the words in which a broken file is reported."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CaptionFileError

IMAGE_KEYS = ("image", "file_name")
"""Names of the column, or the key, of an image; the first one that is there counts."""
CAPTION_KEYS = ("caption", "captions", "text")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One caption of a file."""

    image: str | None
    """Name or address, as the file has it. None if the file does not say which image it is."""
    caption: str
    """Empty if the file has the place of a caption and no caption."""
    key: str
    """Equal for two rows if they are the same caption."""
    where: str
    left_out: str = ""
    """Reason if the entry cannot be used for another one than that its image or its caption is empty."""


def text_in(value: Any) -> str:
    """Return a text of a file.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def text_or_empty(value: Any) -> str:
    """Return a text of a file, and "" for null; pandas writes NaN for it.

    Raises:
        TypeError: it is something else.
    """
    is_null = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_null else text_in(value)


def broken(path: Path, where: str, expected: str, got: Any) -> CaptionFileError:
    shown = repr(got[:80]) if isinstance(got, str) else str(got)[:80]
    return CaptionFileError(f"{path}, {where}: {expected}, got {shown}")
