"""Image files without their metadata: no caption needs it, and no good picture must fail by it.

Colour profiles, XMP, texts and comments are left out before Pillow sees the bytes. They may be damaged, larger than
Pillow accepts, or packed so that a few bytes become gigabytes. EXIF stays where it says how to turn a picture. Bytes
behind the end of a picture are left out too: phones append videos there.
"""

import re
import struct
import zlib
from collections.abc import Iterator

END_OF_JPEG = b"\xff\xd9"

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MAX_EXIF_BYTES = 1_000_000
"""Longer EXIF of a PNG is left out; cameras write at most 64 KB."""

_JPEG = b"\xff\xd8\xff"
_SCAN_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In the data of a scan, 0xFF is followed by 0 or by the number of a restart."""
_MAX_MARKERS = 10_000
"""Markers that are walked behind the first scan. Large progressive JPEGs have about 30."""

_WEBP_FLAGS = 0b0010_0100
"""Bits in VP8X that announce a colour profile and XMP."""

_METADATA_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)
"""An entry `infe` of the table of contents: its version, flags, id and protection, then its type (ISO/IEC 14496-12)."""


def without_metadata(content: bytes) -> bytes:
    """Return the bytes of an image file without its metadata; other formats and broken files unchanged."""
    if content.startswith(_PNG):
        return _bare_png(content)
    if content.startswith(_JPEG):
        return _bare_jpeg(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _bare_webp(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _bare_gif(content)
    if content[4:8] == b"ftyp":
        return _bare_heif(content)
    return content


def share_of_png(content: bytes) -> float:
    """Return how much of a bare PNG's pixels can be unpacked, 0 to 1; the pixels are counted and not kept."""
    width, height, bits, colour = struct.unpack_from(">IIBB", content, 16)
    channels = {2: 3, 4: 2, 6: 4}.get(colour, 1)
    expected: int = height * (1 + (width * bits * channels + 7) // 8)
    unpacker, unpacked = zlib.decompressobj(), 0
    for name, start, end in _png_chunks(content):
        packed = content[start:end] if name == b"IDAT" else b""
        while packed and unpacked < expected:
            try:
                unpacked += len(unpacker.decompress(packed, 1 << 20))
            except zlib.error:
                return unpacked / expected
            packed = unpacker.unconsumed_tail
    return min(1.0, unpacked / expected)


def _bare_png(content: bytes) -> bytes:
    """Keep what gives the pixels, transparency and EXIF; a last chunk that is cut off gets its true length."""
    parts, has_pixels = [_PNG], False
    for name, start, end in _png_chunks(content):
        if not (name[0] & 0x20 == 0 or name == b"tRNS" or (name == b"eXIf" and _is_sound(content, start, end))):
            continue  # a name with a small first letter belongs to a chunk that is not needed
        has_pixels = has_pixels or name == b"IDAT"
        if end + 4 <= len(content):
            parts.append(content[start - 8 : end + 4])
        else:
            data, check = content[start:end], content[end : end + 4].ljust(4, b"\x00")
            parts += [struct.pack(">I", len(data)), name, data, check]
    return b"".join([*parts, _PNG_END]) if has_pixels else content


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield of each chunk before the end its name and where its data begins and ends; the last may be cut off."""
    position = len(_PNG)
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"IEND" or not name.isalpha():
            return
        yield name, position + 8, position + 8 + length
        position += 12 + length


def _is_sound(content: bytes, start: int, end: int) -> bool:
    check = struct.pack(">I", zlib.crc32(content[start - 4 : end]))
    return end - start <= _MAX_EXIF_BYTES and content[end : end + 4] == check


def _bare_jpeg(content: bytes) -> bytes:
    """Keep what gives the pixels, the segments that say how colours are stored, and the first EXIF."""
    parts, position, has_exif = [content[:2]], 2, False
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker, length = content[position + 1], content[position + 2] << 8 | content[position + 3]
        end = position + 2 + length
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            return b"".join([*parts, content[position : _end_of_jpeg(content, end)]])
        if marker == 0x01 or 0xD0 <= marker <= 0xD9 or length < 2:
            break
        is_exif = marker == 0xE1 and content.startswith(b"Exif\x00\x00", position + 4)
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or (is_exif and not has_exif) or _gives_colours(content, position, length):
            parts.append(content[position:end])
            has_exif = has_exif or is_exif
        position = end
    return b"".join([*parts, content[position:]])


def _gives_colours(content: bytes, position: int, length: int) -> bool:
    """Say whether a segment is a whole one of JFIF or Adobe."""
    is_jfif = length >= 16 and content.startswith(b"JFIF\x00", position + 4) and content[position + 1] == 0xE0
    return is_jfif or (length >= 14 and content.startswith(b"Adobe", position + 4) and content[position + 1] == 0xEE)


def _end_of_jpeg(content: bytes, position: int) -> int:
    """Return where the picture ends, from a position in its first scan; the end of the file if it is cut off."""
    for _ in range(_MAX_MARKERS):
        found = _SCAN_MARKER.search(content, position)
        if found is None:
            break
        marker, position = content[found.end() - 1], found.end()
        if marker == 0xD9:
            return position
        if marker not in {0x01, 0xD8}:  # these two have no length
            position += int.from_bytes(content[position : position + 2])
    return len(content)


def _bare_webp(content: bytes) -> bytes:
    parts, position = [b"WEBP"], 12
    while position + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + length % 2
        chunk = content[position:end]
        if name == b"VP8X" and len(chunk) > 8:
            parts.append(chunk[:8] + bytes([chunk[8] & ~_WEBP_FLAGS]) + chunk[9:])
        elif name in {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"} or (name == b"EXIF" and end <= len(content)):
            parts.append(chunk)
        position = end
    bare = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(bare)) + bare


def _bare_gif(content: bytes) -> bytes:
    """Keep of the blocks before the first frame only those that say how to show it."""
    if len(content) < 13:
        return content
    position = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    parts = [content[:position]]
    try:
        while content[position] == 0x21:
            start, position = position, position + 2
            while length := content[position]:  # blocks of up to 255 bytes, each behind its length
                position += 1 + length
            position += 1
            if content[start + 1] == 0xF9:
                parts.append(content[start:position])
    except IndexError:  # the file ends inside
        return content
    return b"".join([*parts, content[position:]])


def _bare_heif(content: bytes) -> bytes:
    """Rename EXIF and XMP in the table of contents of AVIF and HEIC, whose pictures are turned by other fields."""
    position = 0
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"meta" and length >= 8:
            table = _METADATA_ITEM.sub(rb"\1skip", content[position : position + length])
            return content[:position] + table + content[position + length :]
        if length < 8:
            break
        position += length
    return content
