"""A file that is no picture we can read is named, with the way out, and never quoted."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from model.errors import ImageError
from model.vision import images
from model.vision.images import decode_image

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><text>s3cr3t</text></svg>"


def ftyp(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 4).to_bytes(4) + body + b"s3cr3t" * 10


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("s3cr3t.jpg", b"s3cr3t")
    return file.getvalue()


def heic() -> bytes:
    """Return a picture 64 x 32, red at the left and white at the right."""
    image = Image.new("RGB", (64, 32), "white")
    image.paste("red", (0, 0, 32, 32))
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, "HEIF", quality=90)
    return file.getvalue()


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without the extra `heic`."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images._can_read_heic.cache_clear()
    yield
    images._can_read_heic.cache_clear()


@pytest.mark.parametrize(
    ("content", "name", "way_out"),
    [
        (SVG, "an SVG drawing", "export it as JPEG or PNG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- <html> -->\n" + SVG, "an SVG drawing", "export"),
        (b"<!DOCTYPE svg PUBLIC 's3cr3t' [ <!ENTITY a 'b'> ]>" + SVG, "an SVG drawing", "export"),
        (b"<svg:svg xmlns:svg='s3cr3t'/>", "an SVG drawing", "export"),
        (b"\n\n<!doctype HTML><title>s3cr3t</title>", "a web page", "the address may ask for a login"),
        ("<html><body>s3cr3t".encode("utf-16"), "a web page", "use the address of the picture itself"),
        (b"<!-- s3cr3t --><html>", "a web page", "login"),
        (b"<?xml version='1.0'?><Error><Code>s3cr3t</Code></Error>", "an XML text", "permissions"),
        (b'{"detail": "s3cr3t"}', "a JSON text", "permissions"),
        (b"[\n  {}]s3cr3t", "a JSON text", "permissions"),
        (b"%PDF-1.7\ns3cr3t", "a PDF document", "export its page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\ns3cr3t", "a PostScript drawing", "export"),
        (archive(), "an archive", "unpack it"),
        (ftyp(b"isom", b"mp42"), "a video", "export a frame"),
        (ftyp(b"qt  "), "a video", "export a frame"),
        (b"\x1aE\xdf\xa3s3cr3t", "a video", "export a frame"),
        (b"RIFF\x00\x00\x00\x00AVI s3cr3t", "a video", "export a frame"),
        (ftyp(b"avif", b"mif1"), "an AVIF picture that cannot be read", "export"),
        (ftyp(b"heic", b"mif1"), "a HEIC picture that cannot be read", "export"),
        (b"\x89PNG\r\n\x1a\ns3cr3t", "a PNG", "save or upload it again"),
        (b"\xff\xd8\xffs3cr3t", "a JPEG", "save or upload it again"),
        (b"8BPSs3cr3t", "a Photoshop document", "export"),
        (b"version https://git-lfs.github.com/spec/v1\noid s3cr3t", "a pointer of Git LFS", "git lfs pull"),
        (b"", "empty", "save or upload it again"),
    ],
)
def test_a_file_is_named_with_the_way_out_and_not_quoted(content: bytes, name: str, way_out: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode_image(content)

    sentence = refused.value.without_content
    assert name in sentence
    assert way_out in sentence
    assert "s3cr3t" not in str(refused.value) + sentence
    assert str(len(content)) not in sentence


def test_text_is_not_taken_for_a_page() -> None:
    for content in (b"BMW is a car", b"< 3", b"[sic] a note", b"<", b"<!--", b"<!" * 40_000):
        with pytest.raises(ImageError, match="not an image: "):
            decode_image(content)


def test_a_heic_picture_is_decoded() -> None:
    image = decode_image(heic())

    assert (image.mode, image.size) == ("RGB", (64, 32))
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels[16, 8] - (255, 0, 0)).max() < 10
    assert np.abs(pixels[16, 56] - 255).max() < 10


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_a_heic_picture_says_how_to_get_it() -> None:
    with pytest.raises(ImageError, match=r'HEIC picture.*pip install "label-studio-captioner\[heic\]".*as JPEG'):
        decode_image(ftyp(b"heic", b"mif1"))


def test_an_avif_picture_with_a_general_brand_first_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "AVIF")

    assert decode_image(file.getvalue().replace(b"ftypavif", b"ftypmif1", 1)).size == (16, 16)


def test_a_heic_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    content = heic()
    small = b"ispe" + bytes(4) + (64).to_bytes(4)
    assert small in content

    with pytest.raises(ImageError, match="6400000 x 64 pixels"):
        decode_image(content.replace(small, b"ispe" + bytes(4) + (6_400_000).to_bytes(4)))


def test_the_decoder_of_heic_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, model.vision.images; sys.exit('pillow_heif' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
