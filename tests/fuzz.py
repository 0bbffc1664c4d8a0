"""`make fuzz N=100000`: sends so many odd requests to a real backend.

    python -m tests.fuzz [--requests 100000] [--seed 0]

Bodies of every route of Label Studio, their labeling configs and images, forms of the admin pages, headers, raw bytes
and the files of versions are changed at random. A violation is a 500, an answer over 2 s, no answer at all, an ended
process, or more than 1 GB of memory. Each is printed with the request. Then the files of a bundle are changed, a
thousandth as often: it must load, or be refused in a sentence.
"""

import argparse
import base64
import copy
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from redis import Redis
from tqdm import tqdm

from backend.access.throttle import KEY_PREFIX
from backend.demo.child_processes import Service, Services, free_port, start_backend, start_redis
from model.bundle import load_bundle
from model.errors import CaptionerError
from model.registry import ModelRegistry
from model.runtime.serving_bundle import load_serving_bundle
from tests.benchmarks.bench_serving import memory_mb
from tests.factories import write_bundle
from tests.image_server import png
from tests.payloads import load_payload, payload_names

ANSWER_S = 2.0
MOST_MB = 1000.0
LOOK_EVERY = 500
"""Requests between two looks at the memory."""
REQUESTS_PER_BUNDLE = 1000
WAIT_S = 30.0
LOGIN = ("captioner", "secret")
IMAGE = "data:image/png;base64," + base64.b64encode(png()).decode()
CONFIG = '<View><Image name="image" value="$captioning"/><TextArea name="caption" toName="image"/></View>'
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**53 + 1, 10**400, -(10**400), float("nan"), float("inf"), "", " ", "\0"),
    *("\n", "a" * 10_000, "ä", "漢字", "\ud800", "../../etc/passwd", "1.1", "9" * 25, "1e9", "٣"),
    *([], [[]], {}, {"": None}),
    *("9999-12-31T23:59:59.999999-12:00", "0001-01-01T00:00:00Z", "2025-02-30T00:00:00Z", "1970-01-01", IMAGE[:60]),
    *("http://127.0.0.1/", "http://[::1", "s3://bucket/key", "data:image/png;base64,AAAA", "file:///etc/passwd"),
    "<View/>",
)
HEADERS = (
    *("Authorization: Basic \xff\xfe", "Authorization: Bearer x", "Content-Type: text/plain", "Content-Length: -1"),
    *("Content-Length: 99999999999999", "Transfer-Encoding: gzip", "Host: a b", "X-Request-ID: a\tb"),
    "Expect: 100-continue",
    *("Cookie: captioner_session=x", "X-Forwarded-For: " + "1," * 1000, "Accept: " + "a/b," * 500, "Range: bytes=0-"),
    *("Connection: upgrade", "Upgrade: h2c", "Accept-Encoding: br", "Origin: null", "Content-Encoding: gzip"),
    "X: " + "y" * 9000,
)
PATHS = (
    *("/", "/health", "/ready", "/metrics", "/versions", "/versions?project=x", "/admin/", "/admin/api/overview"),
    *("/admin/projects/1/", "/admin/jobs/x/", "/admin/api/projects/999999999999999999999", "/%00", "//x", "/../x"),
)
ACTIONS = (
    *("promote", "rollback", "train", "pause", "drain", "resume", "exclude", "include", "switch_off", "switch_on"),
    *("stop", "cancel", "retry", "delete", "", "../train"),
)
FIELDS = ("version", "correction", "rule", "back", "csrf_token", "name", "password", "text", "before", "state")


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What must not happen."""

    what: str
    request: bytes

    def __str__(self) -> str:
        return f"{self.what}: {self.request[:600]!r}"


def fuzz(
    service: Service, redis: Redis, store: Path, requests: int, seed: int, answer_s: float = ANSWER_S
) -> tuple[Counter[int], list[Violation]]:
    """Send so many odd requests; return the statuses of the answers, and what must not happen.

    Odd headers count as wrong passwords. Whenever they have locked out this address, they are forgotten in Redis, so
    that requests reach the routes.
    """
    draw, statuses, violations = random.Random(seed), Counter[int](), []
    versions = {path: path.read_bytes() for path in sorted(store.glob("projects/1/**/*")) if path.is_file()}
    bodies = [(path, body) for path, body in _recorded() if isinstance(body, dict)]
    makers: Sequence[Callable[[], bytes]] = (
        lambda: _request(draw, *_changed(draw, *draw.choice(bodies))),
        lambda: _request(draw, *_changed(draw, *draw.choice(bodies))),
        lambda: _request(draw, *_with_odd_config(draw)),
        lambda: _request(draw, *_with_odd_image(draw)),
        lambda: _broken(draw, _request(draw, *draw.choice(bodies))),
        lambda: _chunked(draw, *draw.choice(bodies)),
        lambda: _request(draw, draw.choice(PATHS), None),
        lambda: _form(draw),
        lambda: _after_damage(draw, store, versions),
    )
    for number in tqdm(range(requests), desc="fuzz", mininterval=5, leave=False):
        request = draw.choice(makers)()
        began = time.perf_counter()
        status = send(service, request)
        took = time.perf_counter() - began
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            for name in redis.scan_iter(match=f"*{KEY_PREFIX}*"):
                redis.delete(name)
        statuses[status] += 1
        if status == 500:
            violations.append(Violation(what="500", request=request))
        if took > answer_s:
            violations.append(Violation(what=f"{took:.1f} s", request=request))
        if number % LOOK_EVERY == 0 and (used_mb := memory_mb(service)) > MOST_MB:
            violations.append(Violation(what=f"{used_mb:.0f} MB", request=request))
        if not service.is_running:
            violations.append(Violation(what="the process ended", request=request))
            break
    return statuses, violations


def send(service: Service, request: bytes) -> int:
    """Send bytes and return the status of the answer; 0 if the request was not whole, so that none came."""
    address = urlsplit(service.url)
    try:
        with socket.create_connection((address.hostname, address.port), timeout=WAIT_S) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while b"\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
    except OSError:
        return 0
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _recorded() -> list[tuple[str, Any]]:
    """Return the path and the body of every recorded request of Label Studio, and of our other routes."""
    recorded = [load_payload(name) for name in payload_names(*(f"{number}*" for number in range(7)))]
    others = [
        ("/train", {"project": 1}),
        ("/versions", {"project": 1}),
        ("/job_status", {"job": "retrain-1"}),
        ("/validate", {"config": CONFIG}),
        ("/delete", {"project": 1}),
        ("/duplicate_model", {"project_src": 1, "project_dst": 2}),
    ]
    return [(str(it["path"]), it["body"]) for it in recorded if it.get("body")] + others


def _changed(draw: random.Random, path: str, body: Any) -> tuple[str, Any]:
    """Return a body in which some values are odd, missing or of another place."""
    changed = copy.deepcopy(body)
    for _ in range(draw.randint(1, 3)):
        here = changed
        while isinstance(here, dict | list) and here:
            key = draw.choice(list(here)) if isinstance(here, dict) else draw.randrange(len(here))
            if isinstance(here[key], dict | list) and here[key] and draw.random() < 0.7:
                here = here[key]
                continue
            if isinstance(here, dict) and draw.random() < 0.2:
                del here[key]
            else:
                here[key] = copy.deepcopy(draw.choice(ODD))
            break
    return path, changed


def _with_odd_config(draw: random.Random) -> tuple[str, Any]:
    config = list(CONFIG)
    for _ in range(draw.randint(1, 6)):
        config[draw.randrange(len(config))] = draw.choice(["<", ">", '"', "&", "$", "\0", "ä", "", "/", "<View>" * 50])
    odd = "".join(config)
    if draw.random() < 0.1:
        odd = "<View>" * draw.choice([10, 1000, 20_000]) + odd
    if draw.random() < 0.1:
        odd = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + odd.replace("$captioning", "&b;")
    task = {"id": 1, "data": {"captioning": IMAGE}}
    return "/predict", {"tasks": [task], "project": "1.1", "label_config": odd, "params": {}}


def _with_odd_image(draw: random.Random) -> tuple[str, Any]:
    content = bytearray(png())
    for _ in range(draw.randint(1, 20)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    if draw.random() < 0.3:
        content = content[: draw.randrange(len(content))]
    image = "data:image/png;base64," + base64.b64encode(content).decode()
    tasks = [{"id": 1, "data": {"captioning": draw.choice([image, *(it for it in ODD if isinstance(it, str))])}}]
    return "/predict", {"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {}}


def _request(draw: random.Random, path: str, body: Any, content_type: str = "application/json") -> bytes:
    """Return a whole request, now and then with an odd header; a body that is no text is sent as JSON."""
    content = b"" if body is None else (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "replace")
    login = base64.b64encode(":".join(LOGIN).encode()).decode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: test", f"Authorization: Basic {login}"]
    lines += ["Connection: close", f"Content-Type: {content_type}"]
    if draw.random() < 0.15:
        lines.append(draw.choice(HEADERS))
    lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def _form(draw: random.Random) -> bytes:
    """Return a form of the admin pages, or a page with an odd query."""
    names = draw.sample(FIELDS, draw.randint(0, 4))
    fields = urlencode([(name, str(draw.choice(ODD)).encode("utf-8", "replace")) for name in names])
    kind = draw.random()
    if kind < 0.3:
        pages = ("audit/", "jobs/", "projects/1/", "projects/1/corrections/", "api/audit", "api/projects/1/ledger")
        return _request(draw, f"/admin/{draw.choice(pages)}?{fields}", None)
    target = (
        "login" if kind < 0.35 else f"api/{draw.choice(['projects/1', 'projects/7', 'jobs/x'])}/{draw.choice(ACTIONS)}"
    )
    return _request(draw, f"/admin/{target}", fields, content_type="application/x-www-form-urlencoded")


def _after_damage(draw: random.Random, store: Path, versions: Mapping[Path, bytes]) -> bytes:
    """Change a file of a project's versions, or make one whole again, and return a request that reads it."""
    file = draw.choice(sorted(versions))
    content = bytearray(versions[file])
    if draw.random() < 0.7:
        content = damaged(draw, content)
    file.write_bytes(content)
    task = {"id": 1, "data": {"captioning": IMAGE}}
    if draw.random() < 0.5:
        return _request(draw, "/predict", {"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {}})
    name = draw.choice(sorted({path.parent.name for path in versions if path.parent.parent.name == "versions"}))
    pages = ("/versions?project=1", "/admin/projects/1/", f"/admin/projects/1/versions/{name}/", "/admin/", "/ready")
    return _request(draw, draw.choice(pages), None)


def damaged(draw: random.Random, content: bytes | bytearray) -> bytearray:
    """Return a content of a file that is cut off, changed in some bytes, replaced or emptied."""
    changed = bytearray(content)
    kind = draw.random()
    if kind < 0.3:
        return changed[: draw.randrange(len(changed) + 1)]
    if kind < 0.5:
        return bytearray(json.dumps(draw.choice(ODD)).encode("utf-8", "replace"))
    if kind < 0.6:
        return bytearray(b"[" * 100_000)
    for _ in range(draw.randint(1, 20)):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return changed


def fuzz_bundles(bundle: Path, count: int, seed: int) -> list[Violation]:
    """Change a file of a bundle so many times; it must load, or be refused by an error of ours."""
    draw, violations = random.Random(seed), []
    files = sorted(path for path in bundle.iterdir() if path.is_file())
    for _ in tqdm(range(count), desc="bundles", mininterval=5, leave=False):
        file = draw.choice(files)
        whole = file.read_bytes()
        file.write_bytes(damaged(draw, whole))
        try:
            load_serving_bundle(str(bundle))
        except CaptionerError:
            pass
        except Exception as problem:  # noqa: BLE001 - this is what is looked for
            violations.append(Violation(what=f"{file.name}: {problem!r}", request=file.read_bytes()[:200]))
        finally:
            file.write_bytes(whole)
    return violations


def _broken(draw: random.Random, request: bytes) -> bytes:
    """Return a request with some bytes changed, or cut off."""
    changed = bytearray(request)
    for _ in range(draw.randint(1, 5)):
        changed[draw.randrange(min(len(changed), 400))] = draw.randrange(256)
    return bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.3 else changed)


def _chunked(draw: random.Random, path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    extension = b";" + b"x" * draw.choice([0, 10, 8192, 70_000])
    size = draw.choice([b"%x" % len(content), b"-1", b"zz", b"f" * 20, b"0x10", b""])
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + size + extension + b"\r\n" + content + b"\r\n0\r\n\r\n"


def start(services: Services, folder: Path, bundle: str) -> tuple[Service, Redis]:
    """Start the backend that gets the requests, and its Redis; project 1 has two versions of its own."""
    registry, loaded = ModelRegistry.open(str(folder / "store"), bundle), load_bundle(bundle)
    for number in range(2):
        registry.publish(
            1,
            loaded.captioner(),
            parent=registry.serving(1),
            metrics={"number": number},
            corrections=[],
            decision="it is better",
        )
    redis_url = start_redis(services, folder / "redis").url
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "REDIS_URL": redis_url,
        "MODEL_STORE": str(folder / "store"),
        "CAPTION_BUNDLE": bundle,
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "BASIC_AUTH_USER": LOGIN[0],
        "BASIC_AUTH_PASS": LOGIN[1],
    }
    return start_backend(services, settings), Redis.from_url(redis_url)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder) / "logs") as services:
        bundle = write_bundle(Path(folder) / "bundle")
        service, redis = start(services, Path(folder), str(bundle))
        statuses, violations = fuzz(service, redis, Path(folder) / "store", arguments.requests, arguments.seed)
        print(f"memory of the backend: {memory_mb(service):.0f} MB")
        services.stop(service)
        violations += fuzz_bundles(bundle, arguments.requests // REQUESTS_PER_BUNDLE, arguments.seed)
    print(f"{sum(statuses.values())} requests, answers by status: {dict(sorted(statuses.items()))}")
    for violation in violations[:20]:
        print(violation)
    print(f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
