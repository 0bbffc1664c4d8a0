"""The text of a file that people saved: UTF-8 or UTF-16, as Excel and editors write it."""

import codecs
from pathlib import Path

from model.errors import CaptionFileError

_WORKBOOK = b"PK\x03\x04"


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        CaptionFileError: it cannot be read, or it is neither UTF-8 nor UTF-16.
    """
    return decode_text(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise CaptionFileError(f"cannot read {path}: {cause}") from cause


def decode_text(content: bytes, path: Path) -> str:
    if content.startswith(_WORKBOOK):
        raise CaptionFileError(f"{path} is an Excel workbook or an archive: save it as 'CSV UTF-8', or unpack it")
    encoding = _encoding(content)
    try:
        # A carriage return stays: a CSV file may have it inside of a caption.
        return content.decode(encoding)
    except UnicodeDecodeError as cause:
        if encoding != "utf-8-sig":
            raise CaptionFileError(f"{path} is damaged UTF-16 text ({cause.reason}): save it again as UTF-8") from cause
        line = content[: cause.start].count(b"\n") + 1
        # Not guessed: the same bytes are other letters in Windows-1250, 1251 and 1252, and wrong ones would be learned.
        raise CaptionFileError(
            f"{path}, line {line}: not UTF-8 text ({cause.reason}), but perhaps that of an older Windows encoding. In "
            "Excel save it as 'CSV UTF-8', or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from cause


def _encoding(content: bytes) -> str:
    """Tell UTF-16 by its mark, or by the empty half of its first letter."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if 0 in content[:2]:
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    return "utf-8-sig"
