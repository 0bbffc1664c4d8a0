"""Bad input of every kind is answered by one sentence in JSON with the right status, never by a traceback."""

import copy
import functools
import io
import json
import logging
import operator
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.error_answers import MAX_BODY_BYTES
from tests.backend_client import LABEL_CONFIG, BackendClient
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.payloads import load_payload
from tests.redis_server import RedisServer

POSTED = ("/setup", "/predict", "/webhook", "/train", "/versions", "/job_status", "/validate", "/delete")


def sentence(response: Any) -> str:
    """Return the error of an answer; check that it is one sentence in JSON and no traceback."""
    body = response.get_json()
    assert list(body) == ["error"], body
    assert "\n" not in body["error"]
    assert "Traceback" not in body["error"]
    assert "site-packages" not in body["error"]
    text: str = body["error"]
    return text


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"id": 1' + b"0" * 10_000 + b"}", "not valid JSON"),
        (b"[]", "the body must be an object, got a list"),
        (b"null", "the body must be an object, got null"),
        (b"{}", "is missing"),
    ],
    ids=["broken", "nothing", "no text", "too deep", "huge number", "list", "null", "no keys"],
)
def test_a_body_that_cannot_be_read_is_a_400(backend: BackendClient, path: str, content: bytes, said: str) -> None:
    response = backend.send(path, content)

    assert response.status_code == 400
    assert said in sentence(response)


@pytest.mark.parametrize("path", POSTED)
def test_a_body_that_is_not_declared_as_json_is_a_415(backend: BackendClient, path: str) -> None:
    response = backend.send(path, b'{"action": "START_TRAINING"}', content_type="text/plain")

    assert response.status_code == 415
    assert "Content-Type: application/json" in sentence(response)


@pytest.mark.parametrize("path", POSTED)
def test_a_body_of_200_mb_is_a_413_and_is_not_taken_into_memory(backend: BackendClient, path: str) -> None:
    body = CountedZeros(200 * 1024**2)

    response = backend.app.test_client().post(
        path,
        content_type="application/json",
        environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": str(body.left)},
    )

    assert response.status_code == 413
    assert sentence(response).startswith("the body is larger than 100 MB")
    assert body.left == 0
    assert body.largest_read <= 65_536


def test_a_large_body_of_unknown_length_is_a_413_too(backend: BackendClient) -> None:
    body = CountedZeros(MAX_BODY_BYTES + 1)

    response = backend.app.test_client().post(
        "/webhook",
        content_type="application/json",
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("/setup", {"project": None}, "project must be a project id"),
        ("/setup", {"project": "abc"}, "project must be a project id"),
        ("/setup", {"schema": 5}, "schema must be a string, got 5"),
        ("/predict", {"tasks": {}}, "tasks must be a list, got an object"),
        ("/predict", {"tasks": [5]}, "tasks[0] must be an object, got 5"),
        ("/predict", {"tasks": [{"data": {}}]}, "tasks[0].id is missing"),
        ("/predict", {"tasks": [{"id": "1", "data": {}}]}, "tasks[0].id must be a whole number, got '1'"),
        ("/predict", {"tasks": [{"id": 1, "data": []}]}, "tasks[0].data must be an object, got a list"),
        ("/predict", {"label_config": None}, "label_config must be a string, got null"),
        ("/predict", {"params": []}, None),
        ("/predict", {"params": [1]}, "params must be an object, got a list"),
        ("/predict", {"params": {"context": "x"}}, "params.context must be an object, got 'x'"),
        ("/webhook", {"action": 5}, "action must be a string, got 5"),
        ("/webhook", {"project": 5}, "project must be an object, got 5"),
        ("/webhook", {"annotation": None}, "annotation must be an object, got null"),
        ("/train", {"project": []}, "project must be a project id"),
        ("/versions", {"project": {"id": "x"}}, "project.id must be a whole number, got 'x'"),
        ("/job_status", {"job": 5}, "job must be a string, got 5"),
        ("/validate", {"config": 5}, "config must be a string, got 5"),
        ("/delete", {"project": 1.5}, "project must be a project id"),
    ],
)
def test_a_wrong_type_is_a_400_that_names_the_key(
    backend: BackendClient, path: str, change: dict[str, Any], said: str | None
) -> None:
    name = {"/setup": "02_setup", "/predict": "10_predict_label_stream"}.get(
        path, "20_webhook_ANNOTATION_CREATED_accepted"
    )

    response = backend.post(path, load_payload(name)["body"] | change)

    assert response.status_code == (400 if said else 200)
    assert said is None or said in sentence(response)


@pytest.mark.parametrize(("path", "key"), [("/setup", "schema"), ("/predict", "label_config"), ("/validate", "config")])
def test_a_config_without_a_caption_is_a_400_that_lists_what_was_found(
    backend: BackendClient, path: str, key: str
) -> None:
    config = '<View><Text name="t" value="$text"/><Choices name="c" toName="t"><Choice value="x"/></Choices></View>'

    response = backend.post(path, {"project": "1.2", "tasks": [], key: config})

    assert response.status_code == 400
    assert 'found Choices "c" -> "t"; Text "t" value="$text"' in sentence(response)


def test_an_unknown_path_is_a_404_and_a_wrong_method_a_405(backend: BackendClient) -> None:
    missing, wrong = backend.get("/nothing"), backend.get("/predict")

    assert (missing.status_code, sentence(missing)) == (404, "there is nothing at /nothing")
    assert (wrong.status_code, sentence(wrong)) == (405, "/predict takes POST, not GET")
    assert "POST" in wrong.headers["Allow"]
    unknown = backend.post("/job_status", {"job": "nothing"})
    assert (unknown.status_code, sentence(unknown)) == (404, "there is no such job, or its result is no longer kept")


def test_a_bug_is_a_500_without_its_traceback_and_the_log_has_it(
    backend: BackendClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("the bug")

    monkeypatch.setattr("backend.captioning.backend.parse_webhook", fail)

    response = backend.replay("20_webhook_ANNOTATION_CREATED_accepted")

    assert response.status_code == 500
    assert "the bug" not in sentence(response)
    assert "ZeroDivisionError: the bug" in caplog.text


def test_with_redis_down_requests_that_need_it_are_a_503_and_others_are_answered(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    backend = make_backend(redis_url=own_redis.url)
    own_redis.kill()

    for path, body in (("/webhook", webhook()), ("/train", {"project": 1}), ("/job_status", {"job": "x"})):
        response = backend.post(path, body)
        assert response.status_code == 503
        assert sentence(response).startswith("Redis cannot be reached, so nothing was stored")
    assert backend.replay("01_health").status_code == 200
    assert backend.replay("02_setup").status_code == 200


def test_a_store_that_cannot_be_read_is_a_503(backend: BackendClient, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")

    response = backend.replay("02_setup")

    assert response.status_code == 503
    assert "cannot" in sentence(response)


def test_a_damaged_bundle_is_a_503_that_names_the_file(
    make_backend: Callable[..., BackendClient], tmp_path: Path
) -> None:
    (tmp_path / "bundle" / "decoder.safetensors").write_bytes(b"damaged")
    backend = make_backend()

    response = backend.replay("10_predict_label_stream")

    assert response.status_code == 503
    assert "decoder.safetensors is damaged" in sentence(response)
    ready = backend.get("/ready")
    assert ready.status_code == 503
    assert "decoder.safetensors is damaged" in ready.get_json()["checks"]["model"]


def bomb() -> bytes:
    """Return a PNG of a few hundred bytes that declares 10 thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def cut_off() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()[:2000]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"I am a text file called .jpg", "not an image"),
        (b"", "the image is empty"),
        (bomb(), "pixels"),
        (cut_off(), "damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (b"x" * 20_000_001, "larger than 20,000,000 bytes"),
    ],
    ids=["text", "empty", "bomb", "cut off", "svg", "postscript", "too large"],
)
def test_bad_images_get_their_reason_and_the_other_images_their_captions(
    backend: BackendClient, image_server: ImageServer, content: bytes, said: str
) -> None:
    image_server.pages["/bad.jpg"] = content
    good = image_server.show("/good.png")
    tasks = [
        make_task(id=number, data={"captioning": address})
        for number, address in enumerate([good, image_server.url + "/bad.jpg", good])
    ]

    results = backend.predict(tasks)

    assert ["result" in entry for entry in results] == [True, False, True]
    assert said in results[1]["error"]


@pytest.mark.parametrize(
    ("image_ref", "said"),
    [
        ("http://127.0.0.1:9/a.png", "a loopback address"),
        ("http://no.such.host.invalid/a.png", "its host cannot be reached"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("file:///etc/passwd", "is no image address"),
        ("a.png", "is no image address"),
        ("http://", "not valid"),
        ("http://[bad/", "not valid"),
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,A", "base64"),
        ("data:,", "the image is empty"),
    ],
)
def test_bad_addresses_get_their_reason(backend: BackendClient, image_ref: str, said: str) -> None:
    (entry,) = backend.predict([make_task(data={"captioning": image_ref})])

    assert said in entry["error"]


def test_half_a_surrogate_pair_anywhere_does_no_harm(backend: BackendClient) -> None:
    half = "\\ud83d"
    task = f'{{"id": 1, "data": {{"captioning": "/data/{half}.png"}}}}'
    config = LABEL_CONFIG.replace('"', '\\"').replace("\n", " ")
    content = f'{{"tasks": [{task}], "project": "1.1", "label_config": "{config}"}}'

    response = backend.send("/predict", content.encode())

    assert response.status_code == 200
    assert "error" in response.get_json()["results"][0]


def test_bad_input_never_shows_a_warning_of_python(backend: BackendClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        backend.send("/webhook", b"{")
        backend.post("/predict", {})

    assert caplog.records == []


STRANGE: tuple[Any, ...] = (None, True, -1, 1.5, 2**60, 10**400, "", "x", "\ud83d", "\0", [], [[]], {}, {"id": {}})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value in a body; of the large project only the values that we read."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in keys:
        if path[:1] != ("project",) or key in {"id", "label_config"}:
            yield (*path, key)
            yield from places(inner, (*path, key))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/webhook", "20_webhook_ANNOTATION_CREATED_accepted"),
        ("/webhook", "36_webhook_ANNOTATIONS_CREATED_bulk"),
        ("/webhook", "33_webhook_ANNOTATIONS_DELETED"),
        ("/webhook", "44_webhook_TASKS_DELETED"),
        ("/webhook", "51_webhook_START_TRAINING"),
        ("/setup", "02_setup"),
        ("/predict", "17_predict_interactive"),
        ("/predict", "14_predict_open_task_s3"),
    ],
)
def test_a_body_with_any_single_value_replaced_is_never_answered_as_a_bug(
    make_backend: Callable[..., BackendClient], path: str, name: str
) -> None:
    backend = make_backend(label_studio_url="http://127.0.0.1:9")
    recorded = load_payload(name)["body"]
    for place in places(recorded):
        for strange in STRANGE:
            body = copy.deepcopy(recorded)
            *steps, last = place
            functools.reduce(operator.getitem, steps, body)[last] = strange
            # As text, because half a surrogate pair has no other form.
            response = backend.send(path, json.dumps(body).encode())
            assert response.status_code in {200, 201, 400}, f"{place} = {strange!r}: {response.text}"


def webhook() -> dict[str, Any]:
    body: dict[str, Any] = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    return body


class CountedZeros(io.RawIOBase):
    """A body of zeros that is never in memory; it counts the most bytes that were read at once."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.largest_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.largest_read = max(self.largest_read, len(buffer))
        count = min(len(buffer), self.left)
        self.left -= count
        buffer[:count] = bytes(count)
        return count


@pytest.mark.parametrize("job", ["a b", "../x", "ä", "\n", "", "x" * 1000, ":"])
def test_an_odd_job_id_is_refused_or_unknown(backend: BackendClient, job: str) -> None:
    assert backend.post("/job_status", {"job": job}).status_code in {400, 404}
