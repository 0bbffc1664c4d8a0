"""Names what a file is that is not a picture or that no decoder here reads, and says the way out.

No sentence quotes the file, because a task may name an address that its reader must not read.
"""

import re
from typing import Literal

HEIC_WAY_OUT = (
    "the image is a HEIC picture, which needs the extra `heic`; run "
    '`pip install "label-studio-captioner[heic]"` where the backend and its workers run, or export it as JPEG'
)

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

_EXPORT = "export it as JPEG or PNG"
_DAMAGED = "and its beginning is damaged; save or upload it again"
_LOGIN = (
    "the file is a web page (HTML), not an image; the address may ask for a login, or it names the page around the "
    "picture: use the address of the picture itself"
)
_REPLY = (
    "not an image, perhaps an error message of the host; open the address in a browser that is not signed in, and "
    "correct it or its permissions"
)
_ARCHIVE = "the file is an archive, not an image; unpack it and import the pictures in it"
_VIDEO = "the file is a video, not an image; export a frame of it as JPEG or PNG"

_SENTENCES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", f"the image is a JPEG, {_DAMAGED}"),
    (b"\x89PNG\r\n\x1a\n", f"the image is a PNG, {_DAMAGED}"),
    (b"GIF8", f"the image is a GIF, {_DAMAGED}"),
    (b"II*\x00", f"the image is a TIFF or camera file that is damaged or of a rare kind; {_EXPORT}"),
    (b"MM\x00*", f"the image is a TIFF or camera file that is damaged or of a rare kind; {_EXPORT}"),
    (b"\x00\x00\x00\x0cJXL ", f"the image is a JPEG XL, which is not read here; {_EXPORT}"),
    (b"\xff\x0a", f"the image is a JPEG XL, which is not read here; {_EXPORT}"),
    (b"8BPS", f"the file is a Photoshop document, not an image that is read here; {_EXPORT}"),
    (b"%PDF-", "the file is a PDF document, not an image; export its page as JPEG or PNG"),
    (b"%!PS", f"the file is a PostScript drawing, not an image of pixels; {_EXPORT}"),
    (b"PK\x03\x04", _ARCHIVE),
    (b"PK\x05\x06", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (b"Rar!\x1a\x07", _ARCHIVE),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"FLV\x01", _VIDEO),
    (b"version https://git-lfs", "the file is a pointer of Git LFS, not an image; run `git lfs pull`, then upload it"),
)
_ISO_SENTENCES = {
    "AVIF": f"the image is an AVIF picture that cannot be read; {_EXPORT}",
    "HEIC": f"the image is a HEIC picture that cannot be read; {_EXPORT}",
    "video": _VIDEO,
}
_TEXT_BYTES = 65_536
"""Bytes at the beginning in which the first element of a page or drawing is looked for."""
_FIRST_TAG = re.compile(rb"<(?:[\w.-]+:)?([\w.-]+)")
_DOCUMENT_TYPE = re.compile(rb"<!doctype\s+(?:[\w.-]+:)?([\w.-]+)")
_HTML = {b"html", b"head", b"body", b"title", b"meta", b"script", b"style", b"div", b"p", b"h1", b"center", b"form"}


def iso_kind(content: bytes) -> Literal["AVIF", "HEIC", "video"] | None:
    """Return what a file of the ISO base media format is (ISO/IEC 14496-12), by the brands it lists."""
    if content[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(content[:4]), 256)
    brands = {content[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & _AVIF:
        return "AVIF"
    return "HEIC" if brands & _HEIC else "video"


def explain(content: bytes) -> str | None:
    """Return a sentence that names what a file is and the way out; None for unknown ones. It quotes nothing."""
    kind = iso_kind(content)
    if kind is not None:
        return _ISO_SENTENCES[kind]
    if content.startswith(b"RIFF"):
        return f"the image is a WebP, {_DAMAGED}" if content[8:12] == b"WEBP" else _VIDEO
    sentence_of_format = next((sentence for start, sentence in _SENTENCES if content.startswith(start)), None)
    return sentence_of_format or _explain_text(content[:_TEXT_BYTES])


def _explain_text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "replace").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb'\{\s*["}]|\[\s*[\[{"\]]', text):
        return f"the file is a JSON text, {_REPLY}"
    if not text.startswith(b"<"):
        return None
    first = _first_element(text.lower())
    if first == b"svg":
        return f"the file is an SVG drawing, not an image of pixels; {_EXPORT}"
    if first in _HTML:
        return _LOGIN
    return f"the file is an XML text, {_REPLY}" if first or text.startswith(b"<?xml") else None


def _first_element(text: bytes) -> bytes:
    """Return the name of the first element, without namespace, or that of the document type before it."""
    position = 0
    while text.startswith((b"<?", b"<!"), position):
        declared = _DOCUMENT_TYPE.match(text, position)
        if declared:
            return declared[1]
        is_comment = text.startswith(b"<!--", position)
        end = text.find(b"-->" if is_comment else b">", position)
        if end < 0:
            return b""
        position = end + (3 if is_comment else 1)
        while text[position : position + 1].isspace():
            position += 1
    found = _FIRST_TAG.match(text, position)
    return found[1] if found else b""
