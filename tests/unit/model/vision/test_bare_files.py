"""Metadata, missing last bytes and bytes behind the end fail no picture."""

import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from model.errors import ImageError
from model.vision.bare_files import without_metadata
from model.vision.images import decode_image

RANDOM = random.Random(0).randbytes(2_000_000)
PACKED = zlib.compress(bytes(2_000_000))
UPSIDE_DOWN = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00"
MAKER = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x0f\x00\x02\x00\x00\x00\x03ab\x00\x00\x00\x00\x00\x00"


def photo(mode: str = "RGB") -> Image.Image:
    """Return 160 x 120 pixels whose lower part is as full of detail as the upper one."""
    across, down = np.meshgrid(np.arange(160), np.arange(120))
    noise = np.random.default_rng(0).normal(0, 12, (120, 160, 3))
    pixels = np.stack([across, down * 2, across + 20], axis=-1) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image_format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or photo()).save(file, image_format, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(before: bytes = b"", behind: bytes = b"") -> bytes:
    """Return a PNG with chunks before and behind its pixels."""
    plain = encoded("PNG")
    pixels = plain.index(b"IDAT") - 4
    return plain[:pixels] + before + plain[pixels:-12] + behind + plain[-12:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    plain = encoded("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def webp_with(chunks: bytes) -> bytes:
    plain = encoded("WEBP", exif=b"Exif\x00\x00" + MAKER)
    body = plain[8 : plain.index(b"EXIF")] + chunks
    body = body[:12] + b"\x2c" + body[13:]  # announces a colour profile, EXIF and XMP
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_with(blocks: bytes) -> bytes:
    plain = encoded("GIF")
    frame = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:frame] + blocks + plain[frame:]


def riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def with_broken_exif(content: bytes) -> bytes:
    assert MAKER in content
    return content.replace(MAKER, b"hello" + MAKER[5:])


PNG_METADATA = {
    "colour profile of 2 MB": png_with(chunk(b"iCCP", b"x\x00\x00" + zlib.compress(RANDOM))),
    "XMP of 2 MB": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + PACKED)),
    "text of 2 MB behind the pixels": png_with(behind=chunk(b"zTXt", b"a\x00\x00" + PACKED)),
    "text with a wrong checksum": png_with(chunk(b"tEXt", b"a\x00b")[:-1] + b"!"),
    "short chunks": png_with(chunk(b"pHYs", b"") + chunk(b"cHRM", b"1") + chunk(b"acTL", b"1")),
    "texts of 70 MB unpacked": png_with(80 * chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(900_000)))),
}
JPEG_METADATA = {
    "short colour profile": jpeg_with(segment(0xE2, b"ICC_PROFILE\x00")),
    "broken Photoshop segment": jpeg_with(segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed")),
    "short JFIF": jpeg_with(segment(0xE0, b"JFIF\x00")),
    "short Adobe segment": jpeg_with(segment(0xEE, b"Adobe")),
    "broken list of pictures": jpeg_with(segment(0xE2, b"MPF\x00MM\x00*\x00\x00\x00\x08\x00\x01")),
}
OTHER_METADATA = {
    "WebP with XMP cut off": webp_with(riff(b"XMP ", RANDOM)[:-1000]),
    "WebP with EXIF cut off": webp_with(riff(b"EXIF", RANDOM)[:-1000]),
    "AVIF with broken EXIF": with_broken_exif(encoded("AVIF", exif=b"Exif\x00\x00" + MAKER)),
}


def compared(content: bytes) -> float:
    """Return the mean difference between a decoded picture and the photo, in steps of 0 to 255."""
    image = decode_image(content)
    assert image.size == (160, 120)
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(photo()).astype(int)).mean())


@pytest.mark.parametrize("name", PNG_METADATA)
def test_no_metadata_of_a_png_fails_it(name: str) -> None:
    assert compared(PNG_METADATA[name]) == 0


@pytest.mark.parametrize("name", [*JPEG_METADATA, *OTHER_METADATA])
@pytest.mark.filterwarnings("error")
def test_no_metadata_of_other_formats_fails_a_picture(name: str) -> None:
    assert compared((JPEG_METADATA | OTHER_METADATA)[name]) < 10


def test_packed_metadata_takes_no_memory() -> None:
    bomb = png_with(chunk(b"iCCP", b"x\x00\x00" + zlib.compress(bytes(200_000_000), 9)))

    tracemalloc.start()
    decode_image(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 3_000_000


def test_exif_still_turns_a_picture() -> None:
    turned = photo().transpose(Image.Transpose.ROTATE_180)
    exif = b"Exif\x00\x00" + UPSIDE_DOWN
    large = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + bytes(60_000))

    assert compared(encoded("PNG", turned, exif=exif)) == 0
    assert compared(encoded("WEBP", turned, exif=exif)) < 10
    assert compared(encoded("AVIF", turned, exif=exif)) < 10
    jpeg = encoded("JPEG", turned, exif=exif)
    assert compared(jpeg[:2] + large + jpeg[2:]) < 10


def test_what_gives_the_pixels_is_kept() -> None:
    palette = photo("P")
    palette.info["transparency"] = 3
    cmyk = encoded("JPEG", photo("CMYK"))
    frames = [photo(), photo()]

    for content in (encoded("PNG", palette), cmyk, encoded("WEBP"), encoded("AVIF")):
        bare = Image.open(io.BytesIO(without_metadata(content)))
        assert bare.convert("RGBA").tobytes() == Image.open(io.BytesIO(content)).convert("RGBA").tobytes()
    for image_format in ("GIF", "WEBP", "PNG"):
        assert compared(encoded(image_format, frames[0], save_all=True, append_images=frames[1:])) < 20


def test_comments_of_a_gif_are_left_out() -> None:
    plain, comment = encoded("GIF"), b"!\xfe\x05hello\x00"

    bare = without_metadata(gif_with(1000 * comment + b"!\xff\x0bXMP DataXMP\x01x\x00"))

    assert bare == plain
    assert without_metadata(gif_with(1000 * comment)[:2000]).startswith(b"GIF8")


@pytest.mark.parametrize("missing", [1, 2, 10, 40, 200])
@pytest.mark.parametrize(("image_format", "most"), [("PNG", 3), ("JPEG", 15), ("GIF", 10), ("BMP", 3), ("WEBP", 10)])
def test_a_picture_that_lacks_its_last_bytes_is_shown(image_format: str, most: float, missing: int) -> None:
    assert compared(encoded(image_format)[:-missing]) < most


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_a_cut_off_picture_of_any_mode_is_shown_if_little_is_missing_and_else_refused(mode: str) -> None:
    content = encoded("JPEG" if mode in {"L", "CMYK"} else "PNG", photo(mode))

    assert decode_image(content[: len(content) * 9 // 10]).size == (160, 120)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content[: len(content) * 6 // 10])


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_other_cut_off_pictures_are_shown_if_little_is_missing_and_else_refused(image_format: str, mode: str) -> None:
    content = encoded(image_format, photo(mode))

    assert decode_image(content[: len(content) * 9 // 10]).size == (160, 120)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content[: len(content) * 6 // 10])


@pytest.mark.parametrize("interlace", [0, 1])
def test_of_a_cut_off_gif_three_quarters_of_the_rows_must_be_there(interlace: int) -> None:
    content = encoded("GIF", interlace=interlace)

    assert compared(content[: len(content) * 85 // 100]) < 20
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content[: len(content) * 65 // 100])


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\x00\x00" + UPSIDE_DOWN}, {"quality": 95}])
def test_a_webp_of_any_kind_is_shown_wherever_its_end_is_cut_off(options: dict[str, Any]) -> None:
    content = encoded("WEBP", **options)

    for missing in range(1, len(content) // 5, 101):
        assert decode_image(content[:-missing]).size == (160, 120)


def test_a_progressive_jpeg_is_shown_from_its_first_scan_on() -> None:
    content = encoded("JPEG", progressive=True)

    assert compared(content[: len(content) // 2]) < 20
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content[: content.index(b"\xff\xda") + 60])


def test_a_chunk_that_declares_gigabytes_takes_no_memory() -> None:
    content = encoded("PNG")
    pixels = content.index(b"IDAT") - 4

    huge = content[:pixels] + struct.pack(">I", 2_000_000_000) + content[pixels + 4 : -20]

    assert len(without_metadata(huge)) < len(content) + 12
    assert compared(huge) < 3


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "TIFF"])
def test_bytes_behind_a_picture_do_no_harm(image_format: str) -> None:
    assert compared(encoded(image_format) + RANDOM) < 20


def test_a_video_behind_a_photo_is_not_counted_as_scans() -> None:
    photo_12_megapixels = encoded("JPEG", Image.new("RGB", (4000, 3000), "red"))

    assert decode_image(photo_12_megapixels + 100 * b"\xff\xda..").size == (2000, 1500)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "HEIF"])
def test_damage_anywhere_is_an_image_error_or_a_picture(image_format: str) -> None:
    pillow_heif.register_heif_opener()
    rng = random.Random(image_format)
    content = encoded(image_format, photo().resize((32, 24)))

    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        try:
            decode_image(bytes(damaged[: rng.randrange(len(damaged)) if rng.random() < 0.3 else None]))
        except ImageError:
            continue
