"""Images of every kind that people upload become upright RGB pixels."""

import hashlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import BundleError, ImageError
from model.vision.images import IMAGENET_MEAN, IMAGENET_STD, MAX_PIXELS, Preprocessing, decode_image, image_key

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def test_the_key_is_the_sha256_of_the_bytes() -> None:
    assert image_key(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert image_key(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))  # red in the top left corner
    stored = upright
    for turn in {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = decode_image(encoded(stored, exif=exif))

    assert image.size == (32, 16)
    assert pixel(image, 2, 2) == RED
    assert pixel(image, 30, 14) == WHITE


def test_transparent_parts_show_white_paper() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))

    image = decode_image(encoded(half))

    assert (pixel(image, 0), pixel(image, 1)) == (RED, WHITE)


def test_grey_with_alpha_and_palette_with_transparency_show_white_paper() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)

    assert pixel(decode_image(encoded(Image.new("LA", (1, 1), (0, 0))))) == WHITE
    shown = decode_image(encoded(palette, transparency=0))
    assert (pixel(shown, 0), pixel(shown, 1)) == (WHITE, RED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    image = decode_image(encoded(Image.new(mode, (3, 2))))

    assert (image.mode, image.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("image_format", ["JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO"])
def test_every_usual_format_is_read(image_format: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (16, 16), RED), image_format))

    assert np.abs(np.asarray(image).astype(int) - RED).max() <= 4


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))

    image = decode_image(encoded(red, "JPEG", quality=95))

    assert np.abs(np.asarray(image).astype(int) - RED).max() <= 6


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_brightness(image_format: str) -> None:
    grey = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))

    image = decode_image(encoded(grey, image_format))

    assert [pixel(image, x)[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[0, 51, 255]], dtype=np.int32), [0, 51, 255]),
        (np.array([[0, 13107, 65535]], dtype=np.int32), [0, 51, 255]),
        (np.array([[-100, 0, 400]], dtype=np.int32), [0, 51, 255]),
        (np.array([[0, 0.2, 1]], dtype=np.float32), [0, 51, 255]),
        (np.array([[0, 51, 255]], dtype=np.float32), [0, 51, 255]),
        (np.array([[-1, 0, 4]], dtype=np.float32), [0, 51, 255]),
        (np.array([[0, np.nan, 1]], dtype=np.float32), [0, 0, 255]),
    ],
)
def test_integer_and_float_images_are_scaled_to_eight_bits(values: Any, shown: list[int]) -> None:
    image = decode_image(encoded(Image.fromarray(values), "TIFF"))

    assert [pixel(image, x)[0] for x in range(3)] == shown


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), WHITE)]

    image = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert pixel(image) == RED


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_and_a_small_one_whole() -> None:
    assert decode_image(encoded(Image.new("RGB", (4096, 3072), RED), "JPEG")).size == (2048, 1536)
    assert decode_image(encoded(Image.new("RGB", (1600, 1200), RED), "JPEG")).size == (1600, 1200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"Please sign in to see", "not an image: 21 bytes that begin with b'Please sign in t'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_content_that_is_no_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(content)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_damaged_and_not_half_shown(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), image_format)

    with pytest.raises(ImageError):
        decode_image(content[: len(content) // 2])


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "F", "L", "1", "LA"])
def test_a_very_large_image_is_shrunk_before_it_is_converted(mode: str) -> None:
    image = decode_image(encoded(Image.new(mode, (6000, 3000)), "TIFF" if mode == "F" else "PNG"))

    assert (image.mode, image.size) == ("RGB", (3000, 1500))


def test_a_very_long_image_is_shrunk_too() -> None:
    assert decode_image(encoded(Image.new("RGBA", (40_000, 1000)), "PNG")).size == (13_334, 334)


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    jpeg = encoded(Image.new("RGB", (4000, 4000), RED), "JPEG", progressive=True)
    last_scan = jpeg[jpeg.rfind(b"\xff\xda") : -2]

    assert decode_image(jpeg).size == (2000, 2000)
    with pytest.raises(ImageError, match="too many scans"):
        decode_image(jpeg[:-2] + 100 * last_scan + jpeg[-2:])


def test_formats_whose_decoders_need_more_memory_may_have_fewer_pixels() -> None:
    with pytest.raises(ImageError, match="at most 24,000,000 are decoded"):
        decode_image(encoded(Image.new("L", (5000, 5000)), "JPEG2000"))


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    with pytest.raises(ImageError, match=f"{MAX_PIXELS:,}"):
        decode_image(bomb)


# Pillow warns of the damage; the picture is what matters to us.
def test_a_picture_is_turned_upright_although_another_exif_value_has_an_odd_type() -> None:
    header = b"Exif\x00\x00MM\x00*" + (8).to_bytes(4, "big") + (2).to_bytes(2, "big")
    orientation = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    resolution_as_text = b"\x01\x1a\x00\x02\x00\x00\x00\x04abc\x00"
    exif = header + orientation + resolution_as_text + bytes(4)

    image = decode_image(encoded(Image.new("RGB", (16, 8), RED), "JPEG", exif=exif))

    assert image.size == (8, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_with_damaged_exif_is_decoded() -> None:
    content = encoded(Image.new("RGB", (16, 16), RED), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00")

    assert decode_image(content).size == (16, 16)


def test_preprocessing_squashes_the_whole_frame_and_standardises() -> None:
    wide = Image.new("RGB", (400, 100), RED)
    wide.paste(WHITE, (200, 0, 400, 100))

    pixels = Preprocessing(size=8, mean=IMAGENET_MEAN, std=IMAGENET_STD)(wide)

    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.dtype(np.float32))
    assert pixels[:, 0, 0].tolist() == pytest.approx([2.2489, -2.0357, -1.8044], abs=1e-3)
    assert pixels[:, 7, 7].tolist() == pytest.approx([2.2489, 2.4286, 2.6400], abs=1e-3)


def test_preprocessing_averages_what_it_shrinks() -> None:
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[:, ::2] = 255

    pixels = Preprocessing(size=16, mean=(0, 0, 0), std=(1, 1, 1))(Image.fromarray(stripes).convert("RGB"))

    assert pixels.mean().item() == pytest.approx(0.5, abs=0.01)
    assert pixels.std().item() < 0.02


@pytest.mark.parametrize(
    ("size", "mean", "std"), [(0, (0, 0, 0), (1, 1, 1)), (8, (0, 0), (1, 1, 1)), (8, (0, 0, 0), (1, 0, 1))]
)
def test_preprocessing_that_cannot_work_is_refused(size: int, mean: Any, std: Any) -> None:
    with pytest.raises(BundleError, match="preprocessing must"):
        Preprocessing(size=size, mean=mean, std=std)
