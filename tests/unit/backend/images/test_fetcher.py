"""Image addresses, read without a network."""

import base64

import pytest

from backend.images.fetcher import FetchLimits, ImageFetcher
from backend.images.refusals import about_addresses, shown
from model.errors import ImageError

FETCHER = ImageFetcher(
    label_studio_url="http://127.0.0.1:9", authorization=dict, limits=FetchLimits(max_image_bytes=300)
)


@pytest.mark.parametrize(
    ("image_ref", "content"),
    [
        ("data:image/png;base64," + base64.b64encode(b"\x89PNG").decode(), b"\x89PNG"),
        ("data:image/png;base64,iVBORw%3D%3D", b"\x89PNG"),
        ("data:image/png;base64,iVBORw", b"\x89PNG"),
        ("data:image/png;BASE64,iVBORw==", b"\x89PNG"),
        ("data:image/png; base64,iVBORw==", b"\x89PNG"),
        ("data:image/png;base64;charset=utf-8,iVBORw==", b"\x89PNG"),
        ("DATA:image/png;base64,iVBORw==", b"\x89PNG"),
        ("data:image/svg+xml,%3Csvg/%3E", b"<svg/>"),
        ("data:;base64,", b""),
    ],
)
def test_an_image_inside_the_task_is_decoded(image_ref: str, content: bytes) -> None:
    assert FETCHER.fetch(image_ref, 1) == content


@pytest.mark.parametrize(
    ("image_ref", "reason"),
    [
        ("data:image/png;base64", "has no comma"),
        ("data:image/png;base64,A", "is not valid base64"),
        ("data:image/png;base64," + "A" * 1000, "is larger than 300 bytes"),
        ("data:,sha256=00", "only its hash is stored"),
        ("file:///etc/passwd", "is no image address"),
        ("../../etc/passwd", "is no image address"),
        ("ftp://host/a.png", "is no image address"),
        ("http://", "is not valid"),
        ("http://[bad/", "is not valid"),
        ("http://[bad/data/upload/1/a.png", "is not valid"),
        ("C:\\pictures\\a.png", "is no image address"),
    ],
)
def test_a_value_that_is_no_image_address_is_refused(image_ref: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        FETCHER.fetch(image_ref, 1)


@pytest.mark.parametrize(
    ("image_ref", "as_shown"),
    [
        ("/data/local-files/?d=a.png", "/data/local-files/?d=a.png"),
        ("s3://bucket/a.png", "s3://bucket/a.png"),
        ("http://[bad/?signature=secret", "http://[bad/"),
        ("azure-blob://box/a.png?sv=1&sig=secret", "azure-blob://box/a.png"),
        ("s3://key:secret@bucket/a.png", "s3://bucket/a.png"),
        ("/data/local-files/?d=a%20b.png&sig=secret#secret", "/data/local-files/?d=a b.png"),
        (
            "https://labels.example/ls/data/local-files/?sig=secret&d=a.png",
            "https://labels.example/ls/data/local-files/?d=a.png",
        ),
        ("/data/upload/1/a.png?token=secret", "/data/upload/1/a.png"),
        ("https://host/a.png?X-Amz-Signature=secret", "https://host/a.png"),
        ("http://user:secret@host/a.png", "http://host/a.png"),
        ("data:image/png;base64," + "A" * 1000, "data:image/png;base64,..."),
        ("DATA:image/png;base64," + "A" * 1000, "DATA:image/png;base64,..."),
        ("/" + "x" * 1000, "/" + "x" * 199 + "..."),
    ],
)
def test_messages_show_neither_secrets_nor_whole_images(image_ref: str, as_shown: str) -> None:
    assert shown(image_ref) == as_shown


@pytest.mark.parametrize(
    ("image_ref", "named"),
    [
        ("https://labels.example/data/upload/1/a.png", "LABEL_STUDIO_HOST=https://labels.example,"),
        ("http://u:secret@h:8080/ls/data/local-files/?d=a", "LABEL_STUDIO_HOST=http://h:8080/ls,"),
        ("/ls/data/upload/1/a.png", "the sub-path /ls:"),
    ],
)
def test_an_address_that_looks_like_one_of_label_studio_gets_advice(image_ref: str, named: str) -> None:
    advice = about_addresses(image_ref, "http://localhost:8080/")

    assert named in advice
    assert "LABEL_STUDIO_URL" in advice
    assert "now it names http://localhost:8080" in advice
    assert "secret" not in advice


@pytest.mark.parametrize(
    "image_ref", ["https://example.org/data/a.png", "/data/upload/1/a.png", "s3://b/data/upload/1/"]
)
def test_other_addresses_get_no_such_advice(image_ref: str) -> None:
    assert about_addresses(image_ref, None) == ""
