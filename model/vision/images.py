"""Decodes image files and prepares their pixels for an encoder.

Shapes:  S side of the encoder's square input, in pixels
"""

import hashlib
import io
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from model.errors import BundleError, ImageError
from model.vision.bare_files import END_OF_JPEG, share_of_png, without_metadata
from model.vision.foreign_files import HEIC_WAY_OUT, explain, iso_kind

MAX_PIXELS = 50_000_000
"""An image that declares more pixels is refused before it is decoded. Decoding one of so many takes up to 450 MB."""
_MAX_PIXELS_OF = {"WEBP": 24_000_000, "AVIF": 24_000_000, "JPEG2000": 24_000_000}
"""Decoders of these formats take more memory for a pixel."""
MAX_SCANNED_PIXELS = 1_000_000_000
"""A progressive JPEG writes each pixel in several scans; no program that people use writes more than 12. One with more
pixels times scans is refused: it would take more than 10 s."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Only formats that Pillow decodes itself; EPS, for example, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "ICO")

_MANY = 4_000_000
"""Pixels that an image keeps at least when it is shrunk before its conversion."""
_START_OF_SCAN = b"\xff\xda"
"""Marker in a JPEG file. It cannot stand inside a scan, only, by chance, in an embedded thumbnail."""
_CODED_SIZE = re.compile(rb"ispe\x00{4}(.{4})(.{4})", re.DOTALL)
"""Width and height of a picture or tile in a HEIC file (ISO/IEC 23008-12)."""
_LEAST_SHARE = 0.75
"""Share of a picture's rows that must be there if the end of its file is missing; of a WebP, of its last chunk."""
_READ_AHEAD_BYTES = 1024
"""More zeros than libwebp reads beyond the bytes that it needs."""

# A larger JPEG is decoded at a half, a quarter or an eighth of its size, which is faster. No encoder needs more pixels.
_ENOUGH = (1024, 1024)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of an encoder's images: the whole image is resized to a square and its channels standardised."""

    size: int
    """S, in pixels."""
    mean: tuple[float, float, float]
    """Red, green and blue, 0 to 1."""
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.size < 1 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BundleError(
                "preprocessing must have a size of 1 or more, three means and three deviations above 0, "
                f"got size={self.size} mean={self.mean} std={self.std}"
            )

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Return an RGB image as float32 [3, S, S]."""
        side = (self.size, self.size)
        square = image.resize(side, Image.Resampling.BICUBIC, reducing_gap=3.0)
        pixels = np.asarray(square, np.float32).transpose(2, 0, 1) / np.float32(255)  # [S, S, 3] -> [3, S, S]
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std)


def image_key(content: bytes) -> str:
    """Return the SHA-256 of the file's bytes in hex, which identifies the image everywhere in the product."""
    return hashlib.sha256(content).hexdigest()


def decode_image(content: bytes) -> Image.Image:
    """Return an image upright and as RGB.

    Transparent pixels become white, an animation gives its first frame, and 16-bit and float images are scaled to 8
    bits. Very large JPEGs are decoded at a fraction of their size. Metadata and bytes behind the picture are left out.
    A JPEG, PNG, GIF, BMP or WebP whose last bytes are missing is shown as browsers do, if at least three quarters of it
    are there.

    Raises:
        ImageError: the bytes are not an image of a known format, are damaged, or declare too many pixels.
    """
    content = _with_whole_webp(without_metadata(content))
    image = _open_image(content)
    width, height = max(image.size, _largest_coded(image, content), key=prod)
    most = _MAX_PIXELS_OF.get(str(image.format), MAX_PIXELS)
    if width * height > most:
        raise ImageError(f"the image has {width} x {height} pixels, at most {most:,} are decoded", "large")
    if image.format == "JPEG" and width * height * content.count(_START_OF_SCAN) > MAX_SCANNED_PIXELS:
        message = (
            f"the {width} x {height} image is written in too many scans; save it as a JPEG that is not progressive"
        )
        raise ImageError(message, "large")
    try:
        image = _loaded(image, content)
        _turn_upright(image)
        return _to_rgb(_reduced(image))
    except Exception as cause:  # with damaged bytes a decoder may raise any error
        message = f"the {width} x {height} {image.format} image is damaged"
        raise ImageError(f"{message}: {cause}", without_content=message) from cause


def _open_image(content: bytes) -> ImageFile.ImageFile:
    if not content:
        raise ImageError("the image is empty (0 bytes)", without_content="the image is empty; save or upload it again")
    is_heic = iso_kind(content) == "HEIC"
    if is_heic and not _can_read_heic():
        raise ImageError(HEIC_WAY_OUT)
    try:
        return Image.open(io.BytesIO(content), formats=("HEIF",) if is_heic else _formats())
    except UnidentifiedImageError as cause:
        named = explain(content)
        message = named or f"not an image: {len(content)} bytes that begin with {content[:16]!r}"
        raise ImageError(message, without_content=named or "not an image of a known format") from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise ImageError(f"the image has far more pixels than the {MAX_PIXELS:,} that are decoded", "large") from cause
    except Exception as cause:  # with damaged bytes a decoder may raise any error
        message = "the image's header is damaged"
        raise ImageError(f"{message}: {cause}", without_content=message) from cause


def _with_whole_webp(content: bytes) -> bytes:
    """Fill the last chunk of a bare WebP with zeros if its end is missing: libwebp decodes whole chunks only."""
    if not (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        return content
    start, end = 12, 12
    while end + 8 <= len(content):
        start, length = end + 8, int.from_bytes(content[end + 4 : end + 8], "little")
        end = start + length + length % 2
    there = len(content) - start
    if end <= len(content) or there < _LEAST_SHARE * length:
        return content
    zeros = length - there + _READ_AHEAD_BYTES
    zeros += (there + zeros) % 2
    chunk_bytes, file_bytes = (count.to_bytes(4, "little") for count in (there + zeros, len(content) + zeros - 8))
    return b"RIFF" + file_bytes + content[8 : start - 4] + chunk_bytes + content[start:] + bytes(zeros)


def _largest_coded(image: ImageFile.ImageFile, content: bytes) -> tuple[int, int]:
    """Return the largest size of which a HEIC file has pixels; it may show a small part of them."""
    found = _CODED_SIZE.findall(content) if image.format == "HEIF" else []
    return max(((int.from_bytes(width), int.from_bytes(height)) for width, height in found), key=prod, default=(0, 0))


@cache
def _can_read_heic() -> bool:
    """Load the decoder of HEIC, which is an extra, when the first such picture comes; say whether it is there."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


@cache
def _formats() -> tuple[str, ...]:
    """Return the members of `_FORMATS` that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _loaded(image: ImageFile.ImageFile, content: bytes) -> ImageFile.ImageFile:
    """Decode the pixels, also those of a picture whose last bytes are missing."""
    image.draft(None, _ENOUGH)
    try:
        image.load()
    except OSError:
        if _share_decoded(image, content) >= _LEAST_SHARE:
            image.tile = []  # so that Pillow gives what it has decoded
            image.load()
        elif image.format == "JPEG":
            image.close()
            return _loaded_with_an_end(content)
        else:
            raise
    return image


def _share_decoded(image: ImageFile.ImageFile, content: bytes) -> float:
    """Return how much of a picture was decoded before its bytes ended, 0 to 1; 0 for formats that do not show it."""
    if image.format == "PNG":
        return share_of_png(content)
    if not image.tile:  # the bytes are damaged, and did not end too early
        return 0.0
    tile: Any = image.tile[0]
    if image.format == "GIF":
        return _share_of_gif(image, is_interlaced=bool(tile.args[1]))
    if image.format in {"BMP", "DIB"} and tile.codec_name == "raw":
        row_bytes: int = tile.args[1]
        start: int = tile.offset
        return (len(content) - start) / (row_bytes * image.height)
    return 0.0


def _share_of_gif(image: ImageFile.ImageFile, *, is_interlaced: bool) -> float:
    """Return the share of rows with pixels. Rows of the colour that Pillow begins with count as missing."""
    empty = image.info.get("transparency", 0)
    image.tile = []  # so that Pillow gives what it has decoded
    rows = np.flatnonzero((np.asarray(image) != empty).any(axis=1))
    if not len(rows):
        return 0.0
    return (len(rows) if is_interlaced else int(rows[-1]) + 1) / image.height


def _loaded_with_an_end(content: bytes) -> ImageFile.ImageFile:
    """Decode a JPEG that lacks its end; libjpeg paints what is missing in medium grey."""
    image = _open_image(content + END_OF_JPEG)
    image.draft(None, _ENOUGH)
    image.load()
    extrema = image.crop((0, int(image.height * _LEAST_SHARE), *image.size)).getextrema()
    ranges = [extrema] if isinstance(extrema[0], int | float) else extrema
    if all(127 <= low <= high <= 128 for low, high in ranges):
        raise OSError("more than a quarter of the picture is missing")
    return image


def _turn_upright(image: Image.Image) -> None:
    with suppress(Exception):  # a good picture with damaged EXIF is used as it is
        image.getexif()  # parses EXIF and caches it,
        image.info.pop("exif", None)  # so that Pillow does not write it again, which fails for values of odd types
        ImageOps.exif_transpose(image, in_place=True)


def _reduced(image: Image.Image) -> Image.Image:
    """Shrink a very large image, because its conversion needs memory for each pixel."""
    factor = int((image.width * image.height / _MANY) ** 0.5)
    if factor < 2:
        return image
    across, down = min(factor, image.width), min(factor, image.height)
    if image.mode in {"1", "P", "PA"} or image.mode.startswith("I;16"):  # of these no mean can be taken
        return image.resize((image.width // across, image.height // down), Image.Resampling.NEAREST)
    return image.reduce((across, down))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(np.asarray(image), sixteen=image.mode.startswith("I;16")).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any], *, sixteen: bool) -> Image.Image:
    """Scale grey values to 8 bits by the smallest usual maximum that holds them, or else by their own range."""
    grey = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    fractions = values.dtype.kind == "f"
    ceilings = (65535.0,) if sixteen else (1.0, 255.0, 65535.0) if fractions else (255.0, 65535.0)
    ceiling = next((ceiling for ceiling in ceilings if low >= 0 and high <= ceiling), None)
    if ceiling is None:
        grey, ceiling = grey - low, max(high - low, 1e-12)
    return Image.fromarray((grey * (255.0 / ceiling)).round().astype(np.uint8))
