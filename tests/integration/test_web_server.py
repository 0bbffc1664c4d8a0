"""The real server: slow, idle and hanging clients and image hosts do not stop it."""

import http.client
import json
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backend.demo.child_processes import Service, Services, captioner_command, free_port, our_environment, start_backend
from tests.factories import make_task
from tests.fake_label_studio import LABEL_CONFIG
from tests.image_server import ImageServer
from tests.workplace import Workplace

SOON_S = 10
"""Far more than an answer takes, and far less than the limits for slow clients."""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


@pytest.fixture
def backend(workplace: Workplace, services: Services) -> Service:
    return start_backend(
        services, workplace.environment(PORT=str(free_port()), HOST="127.0.0.1", ALLOWED_IMAGE_HOSTS="127.0.0.1")
    )


def connect(backend: Service) -> socket.socket:
    address = urlsplit(backend.url)
    return socket.create_connection((address.hostname, address.port), timeout=SOON_S)


def ask(backend: Service, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(backend.url).netloc, timeout=SOON_S)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, json.loads(text)


def predict(backend: Service, project_id: int, image: str) -> tuple[int, Any]:
    task = make_task(id=project_id, data={"captioning": image})
    body = {"tasks": [task], "project": f"{project_id}.1", "label_config": LABEL_CONFIG, "params": {}}
    return ask(backend, "POST", "/predict", body)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "half a request line", "half a header", "half a body", "half a chunk"],
)
def test_clients_that_send_half_a_request_do_not_stop_others(backend: Service, sent: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(backend)).sendall(sent)

        assert ask(backend, "GET", "/health")[0] == 200


def test_a_thousand_idle_connections_cost_nothing(backend: Service) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(connect(backend))

            assert ask(backend, "GET", "/health")[0] == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hanging_image_host_of_one_project_does_not_stop_another(backend: Service, image_server: ImageServer) -> None:
    is_asked, may_answer = threading.Semaphore(0), threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        is_asked.release()
        may_answer.wait(60)
        handler.close_connection = True  # or the backend waits on, as long as its limit for reading

    image_server.pages["/hangs.png"] = hang
    good = image_server.show("/good.png")
    with ThreadPoolExecutor(20) as threads:
        hanging = [threads.submit(predict, backend, 1, f"{image_server.url}/hangs.png") for _ in range(12)]
        assert is_asked.acquire(timeout=SOON_S)

        status, reply = predict(backend, 2, good)
        healthy = ask(backend, "GET", "/health")[0]
        may_answer.set()
        for call in hanging:
            call.result()

    assert (status, healthy) == (200, 200)
    assert "result" in reply["results"][0]


def test_a_running_request_is_answered_before_the_server_ends(
    backend: Service, services: Services, image_server: ImageServer
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()
    image_server.show("/slow.png")
    content = image_server.pages["/slow.png"]
    assert isinstance(content, bytes)

    def wait(handler: BaseHTTPRequestHandler) -> None:
        is_asked.set()
        may_answer.wait(30)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    image_server.pages["/slow.png"] = wait
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(predict, backend, 1, f"{image_server.url}/slow.png")
        assert is_asked.wait(SOON_S)
        backend.process.send_signal(signal.SIGTERM)
        may_answer.set()

        status, reply = call.result()

    assert status == 200
    assert "result" in reply["results"][0]
    assert backend.process.wait(SOON_S) == 0


def test_a_port_that_is_taken_is_named(workplace: Workplace, backend: Service) -> None:
    port = str(urlsplit(backend.url).port)
    environ = our_environment(workplace.environment(PORT=port, HOST="127.0.0.1"))

    ended = subprocess.run(
        captioner_command("serve"), env=environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 2
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in ended.stderr
