"""Fetching images: limits of time and size, redirects, and the token that only Label Studio may get."""

import base64
import gzip
import socket
import ssl
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from backend.images.addresses import AllowedHosts
from backend.images.fetcher import FetchLimits, ImageFetcher
from backend.images.task_images import decode_fetched
from backend.label_studio.client import LabelStudioClient
from model.errors import ImageError, LabelStudioError
from tests.backend_client import BackendClient
from tests.fake_label_studio import FakeLabelStudio
from tests.image_server import ImageServer, png, send
from tests.payloads import load_payload

TOKEN = {"Authorization": "Token 0123456789abcdef"}


@pytest.fixture
def label_studio(image_server: ImageServer) -> ImageServer:
    return image_server


@pytest.fixture
def elsewhere() -> Iterator[ImageServer]:
    """Another host in the network."""
    with ImageServer() as server:
        yield server


@pytest.fixture
def authority() -> trustme.CA:
    """The authority that signed the certificate of the https server."""
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[ImageServer]:
    """A host with https."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with ImageServer(tls=tls) as server:
        yield server


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority, as a company does for its own with REQUESTS_CA_BUNDLE."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))


@pytest.fixture
def fetcher(label_studio: ImageServer) -> ImageFetcher:
    """A fetcher that may fetch from other servers of this machine too."""
    limits = FetchLimits(connect_timeout_s=1, read_timeout_s=0.5, total_timeout_s=1, max_image_bytes=100_000)
    allowed = AllowedHosts.parse("127.0.0.0/8")
    return ImageFetcher(label_studio_url=label_studio.url, authorization=lambda: TOKEN, allowed=allowed, limits=limits)


@pytest.fixture
def usual_fetcher(label_studio: ImageServer) -> ImageFetcher:
    """A fetcher where the operator lists no hosts."""
    return ImageFetcher(label_studio_url=label_studio.url, authorization=lambda: TOKEN)


@pytest.mark.parametrize("path", ["/data/upload/6/9a3d7c6a-dog%200.png", "/data/local-files/?d=images/dog0.png"])
def test_files_of_label_studio_are_fetched_with_the_token(
    label_studio: ImageServer, fetcher: ImageFetcher, path: str
) -> None:
    label_studio.show(path)

    assert fetcher.fetch(path, 1) == png()
    assert label_studio.requests[0].headers["authorization"] == TOKEN["Authorization"]


def test_a_sub_path_of_label_studio_is_not_doubled(label_studio: ImageServer) -> None:
    fetcher = ImageFetcher(label_studio_url=label_studio.url + "/ls/", authorization=dict)
    label_studio.show("/ls/data/upload/1/a.png")

    assert fetcher.fetch("/ls/data/upload/1/a.png", 1) == png()


@pytest.mark.parametrize("uri", ["s3://pics/a/dog0.png", "gs://pics/hund?ü.png", "azure-blob://c/a.png"])
def test_cloud_files_are_resolved_by_label_studio_and_the_token_stays_there(
    label_studio: ImageServer, elsewhere: ImageServer, fetcher: ImageFetcher, uri: str
) -> None:
    signed = elsewhere.show("/bucket/dog0.png?signature=abc")
    encoded = base64.urlsafe_b64encode(uri.encode()).decode()
    label_studio.redirect(f"/tasks/194/resolve/?fileuri={encoded}", signed)

    assert fetcher.fetch(uri, 194) == png()
    assert label_studio.requests[0].headers["authorization"] == TOKEN["Authorization"]
    assert "authorization" not in elsewhere.requests[0].headers


def test_label_studio_may_also_send_the_cloud_file_itself(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    encoded = base64.urlsafe_b64encode(b"s3://pics/dog.png").decode()
    label_studio.show(f"/tasks/1/resolve/?fileuri={encoded}", "blue")

    assert fetcher.fetch("s3://pics/dog.png", 1) == png("blue")


def test_other_hosts_get_no_token(elsewhere: ImageServer, fetcher: ImageFetcher) -> None:
    assert fetcher.fetch(elsewhere.show("/dog.png"), 1) == png()
    assert "authorization" not in elsewhere.requests[0].headers


def test_an_address_on_label_studio_itself_gets_the_token(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    assert fetcher.fetch(label_studio.show("/data/upload/1/a.png"), 1) == png()
    assert "authorization" in label_studio.requests[0].headers


@pytest.mark.usefixtures("trusted")
def test_images_come_by_https_too(secured: ImageServer, fetcher: ImageFetcher) -> None:
    assert fetcher.fetch(secured.show("/dog.png"), 1) == png()


def test_an_untrusted_certificate_is_refused_with_a_way_out(secured: ImageServer, fetcher: ImageFetcher) -> None:
    with pytest.raises(ImageError, match="REQUESTS_CA_BUNDLE"):
        fetcher.fetch(secured.show("/dog.png"), 1)

    assert not secured.requests


@pytest.mark.parametrize("trick", ["//{other}/x.png", "http://{label_studio}@{other}/x.png"])
def test_addresses_that_only_look_like_label_studio_get_no_token(
    label_studio: ImageServer, elsewhere: ImageServer, fetcher: ImageFetcher, trick: str
) -> None:
    elsewhere.show("/x.png")
    hosts = {"label_studio": label_studio.url.removeprefix("http://"), "other": elsewhere.url.removeprefix("http://")}

    assert fetcher.fetch(trick.format(**hosts), 1) == png()
    assert elsewhere.requests[0].headers.get("authorization") != TOKEN["Authorization"]
    assert label_studio.requests == []


def test_a_redirect_back_to_label_studio_gets_the_token_again_and_one_away_loses_it(
    label_studio: ImageServer, elsewhere: ImageServer, fetcher: ImageFetcher
) -> None:
    label_studio.show("/data/upload/1/a.png")
    start = elsewhere.redirect("/a", label_studio.url + "/data/upload/1/a.png")

    fetcher.fetch(start, 1)

    assert "authorization" not in elsewhere.requests[0].headers
    assert "authorization" in label_studio.requests[0].headers


def test_redirects_are_followed_three_times_and_no_more(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    label_studio.show("/0")
    for hop in range(1, 5):
        label_studio.redirect(f"/{hop}", f"/{hop - 1}")

    assert fetcher.fetch("/3", 1) == png()
    with pytest.raises(ImageError, match="redirects more than 3 times"):
        fetcher.fetch("/4", 1)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1:6379/_x"])
def test_a_redirect_leaves_neither_http_nor_https(
    label_studio: ImageServer, fetcher: ImageFetcher, target: str
) -> None:
    label_studio.redirect("/a.png", target)

    with pytest.raises(ImageError, match="only http and https"):
        fetcher.fetch("/a.png", 1)


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/latest/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/latest/",
    ],
)
def test_metadata_services_are_never_asked(usual_fetcher: ImageFetcher, address: str) -> None:
    with pytest.raises(ImageError, match=r"link-local|cannot be reached"):
        usual_fetcher.fetch(address, 1)


def test_a_redirect_to_a_metadata_service_is_not_followed(
    label_studio: ImageServer, usual_fetcher: ImageFetcher
) -> None:
    label_studio.redirect("/data/a.png", "http://169.254.169.254/latest/meta-data/")

    with pytest.raises(ImageError, match="link-local"):
        usual_fetcher.fetch("/data/a.png", 1)


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "64:ff9b::7f00:1"])
def test_a_name_that_leads_to_a_refused_address_is_refused_before_anything_is_connected(
    usual_fetcher: ImageFetcher, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with ImageServer() as other:
        port = int(other.url.rpartition(":")[2])
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(kind, socket.SOCK_STREAM, 6, "", (address, port))])

        with pytest.raises(ImageError, match=r"not fetched from images\.example"):
            usual_fetcher.fetch(f"http://images.example:{port}/a.png", 1)

    assert other.requests == []


def test_other_servers_of_this_machine_are_refused_and_label_studios_files_are_not(
    label_studio: ImageServer, usual_fetcher: ImageFetcher
) -> None:
    label_studio.show("/data/upload/1/a.png")
    with ImageServer() as other:
        inside = other.show("/a.png")
        label_studio.redirect("/data/upload/1/b.png", inside)

        assert usual_fetcher.fetch("/data/upload/1/a.png", 1) == png()
        for address in (inside, "/data/upload/1/b.png"):
            with pytest.raises(ImageError, match="loopback"):
                usual_fetcher.fetch(address, 1)

    assert other.requests == []


@pytest.mark.parametrize(
    "path",
    ["/api/current-user/whoami", "/data/../api/users", "/data/%2e%2e/api/users", "/tasks/1/annotations", "/api/data/a"],
)
def test_the_key_is_sent_for_files_only(label_studio: ImageServer, fetcher: ImageFetcher, path: str) -> None:
    for image_ref in (path, label_studio.url + path):
        with pytest.raises(ImageError):
            fetcher.fetch(image_ref, 1)

    assert all("authorization" not in request.headers for request in label_studio.requests)


def test_what_was_fetched_is_not_quoted(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    label_studio.pages["/data/upload/1/a.png"] = b"root:secret:0:0"

    with pytest.raises(ImageError) as problem:
        decode_fetched(fetcher.fetch("/data/upload/1/a.png", 1))

    assert "secret" not in str(problem.value)
    assert "15" not in str(problem.value)


def test_too_many_bytes_are_refused_while_they_stream(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        while not label_studio.stopping.is_set() and len(sent) < 10_000:
            sent.append(handler.wfile.write(b"x" * 10_000))

    label_studio.pages["/a.png"] = swallow_broken_pipe(endless)

    with pytest.raises(ImageError, match="larger than 100,000 bytes"):
        fetcher.fetch("/a.png", 1)
    assert len(sent) < 10_000


def test_chunked_replies_are_read(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (png()[:20], png()[20:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    label_studio.pages["/a.png"] = chunked

    assert fetcher.fetch("/a.png", 1) == png()


def drip_body(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "50000")
    handler.end_headers()
    while not stop.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def drip_chunk(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"c350\r\n")
    while not stop.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def drip_head(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        handler.wfile.write(b"H")
        handler.wfile.flush()


@pytest.mark.parametrize("drip", [drip_body, drip_chunk, drip_head])
def test_a_server_that_sends_byte_by_byte_is_cut_off(
    label_studio: ImageServer,
    fetcher: ImageFetcher,
    drip: Callable[[BaseHTTPRequestHandler, threading.Event], None],
) -> None:
    label_studio.pages["/a.png"] = swallow_broken_pipe(lambda handler: drip(handler, label_studio.stopping))

    with pytest.raises(ImageError):
        fetcher.fetch("/a.png", 1)


@pytest.mark.usefixtures("trusted")
def test_a_server_that_sends_byte_by_byte_over_https_is_cut_off_too(
    secured: ImageServer, fetcher: ImageFetcher
) -> None:
    secured.pages["/a.png"] = swallow_broken_pipe(lambda handler: drip_head(handler, secured.stopping))

    with pytest.raises(ImageError, match="cannot be fetched"):
        fetcher.fetch(secured.url + "/a.png", 1)


def test_a_silent_server_is_cut_off(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    def stay_silent(_: BaseHTTPRequestHandler) -> None:
        label_studio.stopping.wait(10)

    label_studio.pages["/a.png"] = stay_silent

    with pytest.raises(ImageError, match="its host stopped sending"):
        fetcher.fetch("/a.png", 1)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "gzip, gzip"])
def test_a_reply_that_is_packed_in_a_way_that_we_cannot_read_is_refused(
    label_studio: ImageServer, fetcher: ImageFetcher, coding: str
) -> None:
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, b"...", Content_Encoding=coding)

    with pytest.raises(ImageError, match=f"packed as {coding} although identity was asked for"):
        fetcher.fetch("/a.png", 1)


@pytest.mark.parametrize("coding", ["", "identity", "Identity", "aws-chunked", "utf-8", "none", "binary", "a, b"])
def test_a_coding_that_packs_nothing_is_ignored(label_studio: ImageServer, fetcher: ImageFetcher, coding: str) -> None:
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, png(), Content_Encoding=coding)

    assert fetcher.fetch("/a.png", 1) == png()


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "aws-chunked, gzip", "deflate"])
def test_a_packed_reply_is_unpacked(label_studio: ImageServer, fetcher: ImageFetcher, coding: str) -> None:
    packed = zlib.compress(png()) if coding == "deflate" else gzip.compress(png())
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, packed, Content_Encoding=coding)

    assert fetcher.fetch("/a.png", 1) == png()


def test_deflate_without_its_header_is_unpacked(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    packed = zlib.compress(png())[2:-4]
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, packed, Content_Encoding="deflate")

    assert fetcher.fetch("/a.png", 1) == png()


def test_a_reply_that_unpacks_to_too_many_bytes_is_refused_and_takes_no_memory(
    label_studio: ImageServer, fetcher: ImageFetcher
) -> None:
    bomb = gzip.compress(bytes(80_000_000))
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, bomb, Content_Encoding="gzip")

    tracemalloc.start()
    with pytest.raises(ImageError, match="is larger than 100,000 bytes"):
        fetcher.fetch("/a.png", 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 5_000_000


def test_a_reply_that_cannot_be_unpacked_says_so(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, b"...", Content_Encoding="gzip")

    with pytest.raises(ImageError, match="packed as gzip, and its bytes cannot be unpacked"):
        fetcher.fetch("/a.png", 1)


UPLOAD = "/data/upload/1/a.png"
LOCAL = "/data/local-files/?d=pictures/a.png"


@pytest.mark.parametrize(
    ("path", "status", "body", "advice"),
    [
        (UPLOAD, 401, "{}", "Label Studio refuses LABEL_STUDIO_API_KEY, `captioner doctor` says more"),
        (UPLOAD, 403, "{}", "the user of LABEL_STUDIO_API_KEY may not see the project of this file"),
        (
            UPLOAD,
            404,
            "{}",
            "Label Studio has no such file; it was deleted, or the task came from another Label Studio",
        ),
        (
            UPLOAD,
            500,
            "{}",
            "Label Studio has no such file; it was deleted, or the task came from another Label Studio",
        ),
        (LOCAL, 403, "set LOCAL_FILES_SERVING_ENABLED", "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true"),
        (LOCAL, 404, "", "no local files storage covers its folder"),
        ("s3://pics/a.png", 404, "", "no storage covers this address"),
        ("s3://pics/a.png", 424, '{"detail": "(NoSuchKey) gone"}', "the file is missing in its storage"),
        ("s3://pics/a.png", 424, '{"detail": "(AccessDenied)"}', "whose log says why"),
        ("/static/a.png", 404, "", "Label Studio has no images at this path"),
        (UPLOAD, 418, "{}", "answered 418"),
    ],
)
def test_a_refusal_of_label_studio_names_the_cause(
    label_studio: ImageServer, fetcher: ImageFetcher, path: str, status: int, body: str, advice: str
) -> None:
    label_studio.pages[resolved(path, 7)] = lambda handler: send(handler, status, body.encode())

    with pytest.raises(ImageError) as problem:
        fetcher.fetch(path, 7)

    assert str(problem.value).startswith(f"{path} answered {status}")
    assert advice in str(problem.value)


def resolved(image_ref: str, task_id: int) -> str:
    """Return the path at which Label Studio is asked for an image."""
    if image_ref.startswith("/"):
        return image_ref
    return f"/tasks/{task_id}/resolve/?fileuri={base64.urlsafe_b64encode(image_ref.encode()).decode()}"


@pytest.mark.parametrize(
    ("status", "cause"), [(404, "the file is missing in its storage"), (403, "the storage refuses the address")]
)
def test_a_file_that_is_missing_in_its_bucket_is_named_without_the_signature(
    label_studio: ImageServer, elsewhere: ImageServer, fetcher: ImageFetcher, status: int, cause: str
) -> None:
    signed = elsewhere.url + "/pics/a.png?X-Amz-Signature=secret"
    label_studio.redirect(resolved("s3://pics/a.png?versionId=secret", 7), signed)
    elsewhere.pages["/pics/a.png?X-Amz-Signature=secret"] = lambda handler: send(handler, status, b"<Error/>")

    with pytest.raises(ImageError) as problem:
        fetcher.fetch("s3://pics/a.png?versionId=secret", 7)

    assert str(problem.value).startswith(f"s3://pics/a.png answered {status}: {cause}")
    assert "secret" not in str(problem.value)


def test_without_a_key_the_missing_setting_is_named(label_studio: ImageServer) -> None:
    fetcher = ImageFetcher(label_studio_url=label_studio.url, authorization=dict)
    label_studio.pages[UPLOAD] = lambda handler: send(handler, 401, b"")

    with pytest.raises(ImageError, match="LABEL_STUDIO_API_KEY is not set"):
        fetcher.fetch(UPLOAD, 1)


def at_public_address(label_studio: ImageServer, public: str, root: str = "") -> ImageFetcher:
    """Return a fetcher that knows an address for browsers; nothing listens there."""
    return ImageFetcher(
        label_studio_url=label_studio.url + root, authorization=lambda: TOKEN, public_address=lambda: public
    )


@pytest.mark.parametrize("public", ["http://localhost:1/", "https://labels.example/", "https://labels.example/ls/"])
@pytest.mark.parametrize("root", ["", "/inner"])
@pytest.mark.parametrize("path", ["data/upload/1/a.png", "data/local-files/?d=pictures/a.png"])
def test_a_file_at_the_public_address_is_read_at_the_inner_one(
    label_studio: ImageServer, public: str, root: str, path: str
) -> None:
    fetcher = at_public_address(label_studio, public, root)
    label_studio.show(f"{root}/{path}")
    sub_path = "/" + public.split("/", 3)[3]

    for image_ref in (public + path, sub_path + path, f"{root}/{path}", f"/{path}"):
        assert fetcher.fetch(image_ref, 1) == png()

    assert [request.path for request in label_studio.requests] == [f"{root}/{path}"] * 4
    assert all("authorization" in request.headers for request in label_studio.requests)


def test_the_address_that_setup_told_is_known_to_the_next_prediction(
    backend: BackendClient, label_studio: ImageServer
) -> None:
    address = load_payload("02_setup")["body"]["hostname"] + UPLOAD
    label_studio.show(UPLOAD)
    [before] = backend.predict([{"id": 1, "data": {"captioning": address}}])
    backend.replay("02_setup")

    [after] = backend.predict([{"id": 1, "data": {"captioning": address}}])

    assert "LABEL_STUDIO_HOST" in before["error"]
    assert after["result"]
    assert len(label_studio.requests) == 1


@pytest.mark.parametrize("hostname", [None, 7, {}, "", "http://[", "javascript:alert(1)", "x" * 100_000])
def test_setup_is_answered_whatever_it_tells_as_the_hostname(backend: BackendClient, hostname: object) -> None:
    body = load_payload("02_setup")["body"] | {"hostname": hostname}

    assert backend.post("/setup", body).status_code == 200


@pytest.mark.parametrize(
    "image_ref",
    [
        "{public}/api/users",
        "{public}/data/../api/users",
        "{public}/data/%2e%2e/api/users",
        "{public}/ls/data/upload/1/a.png",
        "{public}@other.invalid/data/upload/1/a.png",
        "//other.invalid/data/upload/1/a.png",
    ],
)
def test_what_setup_told_sends_the_key_nowhere_else(
    label_studio: ImageServer, elsewhere: ImageServer, image_ref: str
) -> None:
    """Whoever can call /setup can tell any address, such as that of a server of theirs."""
    fetcher = ImageFetcher(
        label_studio_url=label_studio.url,
        authorization=lambda: TOKEN,
        public_address=lambda: elsewhere.url + "/",
        allowed=AllowedHosts.parse("127.0.0.0/8"),
    )

    with pytest.raises(ImageError):
        fetcher.fetch(image_ref.format(public=elsewhere.url), 1)

    assert label_studio.requests == []
    assert all("authorization" not in request.headers for request in elsewhere.requests)


def test_a_redirect_to_the_public_address_is_followed_at_the_inner_one(label_studio: ImageServer) -> None:
    fetcher = at_public_address(label_studio, "https://labels.example/")
    label_studio.show("/data/upload/2/b.png")
    label_studio.redirect(UPLOAD, "https://labels.example/data/upload/2/b.png")
    label_studio.redirect("/data/upload/3/c.png", "https://labels.example/data/upload/3/c.png")

    assert fetcher.fetch(UPLOAD, 1) == png()
    with pytest.raises(ImageError, match="LABEL_STUDIO_URL redirects to the public address"):
        fetcher.fetch("/data/upload/3/c.png", 1)


def test_a_file_at_an_address_that_nobody_told_gets_advice(elsewhere: ImageServer, fetcher: ImageFetcher) -> None:
    elsewhere.pages["/ls" + UPLOAD] = lambda handler: send(handler, 401, b"{}")

    with pytest.raises(ImageError) as problem:
        fetcher.fetch(f"{elsewhere.url}/ls{UPLOAD}", 1)

    assert f"start Label Studio with LABEL_STUDIO_HOST={elsewhere.url}/ls" in str(problem.value)
    assert "it has named no address yet" in str(problem.value)


def test_an_unknown_sub_path_is_named(fetcher: ImageFetcher) -> None:
    with pytest.raises(ImageError, match=r"Neither LABEL_STUDIO_URL nor .* has the sub-path /ls"):
        fetcher.fetch(f"/ls{UPLOAD}", 1)


@pytest.fixture
def real_files() -> Iterator[FakeLabelStudio]:
    """A Label Studio that checks keys."""
    with FakeLabelStudio() as server:
        yield server


def test_a_refused_access_token_is_renewed_once_for_all_images(real_files: FakeLabelStudio) -> None:
    label_studio = real_files
    client = LabelStudioClient(label_studio.url, label_studio.personal_access_token)
    label_studio.files[UPLOAD] = png()
    fetcher = ImageFetcher(
        label_studio_url=label_studio.url, authorization=client.authorization, forget_access=client.forget_access
    )
    assert fetcher.fetch(UPLOAD, 1) == png()
    label_studio.access_tokens.clear()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: fetcher.fetch(UPLOAD, 1), range(8))) == [png()] * 8

    assert len(label_studio.requests_to("POST", "/api/token/refresh/")) == 2


def test_a_legacy_token_that_is_refused_is_not_sent_twice(label_studio: ImageServer) -> None:
    client = LabelStudioClient(label_studio.url, "0" * 40)
    fetcher = ImageFetcher(
        label_studio_url=label_studio.url, authorization=client.authorization, forget_access=client.forget_access
    )
    label_studio.pages[UPLOAD] = lambda handler: send(handler, 401, b"")

    with pytest.raises(ImageError, match="refuses LABEL_STUDIO_API_KEY"):
        fetcher.fetch(UPLOAD, 1)

    assert len(label_studio.requests) == 1


def test_the_first_byte_may_come_later_than_a_connection(label_studio: ImageServer) -> None:
    limits = FetchLimits(connect_timeout_s=0.1, read_timeout_s=5)
    fetcher = ImageFetcher(label_studio_url=label_studio.url, authorization=dict, limits=limits)

    def begin_late(handler: BaseHTTPRequestHandler) -> None:
        label_studio.stopping.wait(1.5)
        send(handler, 200, png())

    label_studio.pages[UPLOAD] = begin_late

    assert fetcher.fetch(UPLOAD, 1) == png()


def test_the_limits_allow_a_first_byte_after_nine_seconds_and_end_before_label_studio_does() -> None:
    limits = FetchLimits()

    assert limits.connect_timeout_s <= 5
    assert limits.read_timeout_s >= 9 + 3
    assert limits.read_timeout_s < limits.total_timeout_s < 60


def test_the_message_says_that_a_host_cannot_be_reached(fetcher: ImageFetcher) -> None:
    with pytest.raises(ImageError, match=r"^http://127.0.0.1:9/a.png cannot be fetched: its host cannot be reached$"):
        fetcher.fetch("http://127.0.0.1:9/a.png?signature=secret", 1)


def test_the_message_says_that_the_token_cannot_be_renewed(label_studio: ImageServer) -> None:
    def fail() -> dict[str, str]:
        raise LabelStudioError("Label Studio refuses LABEL_STUDIO_API_KEY")

    fetcher = ImageFetcher(label_studio_url=label_studio.url, authorization=fail)

    with pytest.raises(ImageError, match="cannot be fetched: Label Studio refuses LABEL_STUDIO_API_KEY"):
        fetcher.fetch("/data/upload/1/a.png", 1)


def test_connections_are_kept_and_cookies_are_not(label_studio: ImageServer, fetcher: ImageFetcher) -> None:
    label_studio.pages["/a.png"] = lambda handler: send(handler, 200, png(), Set_Cookie="sessionid=1; Path=/")

    for _ in range(3):
        fetcher.fetch("/a.png", 1)

    assert len({request.connection for request in label_studio.requests}) == 1
    assert "cookie" not in label_studio.requests[-1].headers


def swallow_broken_pipe(
    reply: Callable[[BaseHTTPRequestHandler], None],
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Let a reply end without an error when the client closes the connection."""

    def quiet(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            reply(handler)
        except OSError:
            return

    return quiet
