"""What computes captions in real processes of the backend: ONNX Runtime, or torch where that is not installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from backend.demo.child_processes import Service, Services, free_port, our_environment, wait_until
from tests.factories import make_task
from tests.image_server import ImageServer
from tests.payloads import load_payload
from tests.workplace import DEADLINE_S, Workplace

SERVE = "from backend.cli import main; main(['serve'])"
WITHOUT_ONNX_RUNTIME = "import sys; sys.modules['onnxruntime'] = None; "
LABEL_CONFIG = load_payload("02_setup")["body"]["schema"]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


def start(services: Services, workplace: Workplace, program: str) -> Service:
    """Run a Python program that serves, until it is ready."""
    port = free_port()
    environ = our_environment(workplace.environment(HOST="127.0.0.1", PORT=str(port), ALLOWED_IMAGE_HOSTS="127.0.0.1"))
    url = f"http://127.0.0.1:{port}"
    backend = services.start("backend", [sys.executable, "-c", program], url=url, environ=environ)
    wait_until(backend, lambda: is_ready(url), DEADLINE_S)
    return backend


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/ready", timeout=DEADLINE_S).ok
    except requests.ConnectionError:
        return False


def caption(backend: Service, address: str) -> str:
    body = {"tasks": [make_task(data={"captioning": address})], "project": "1.1", "label_config": LABEL_CONFIG}
    reply = requests.post(f"{backend.url}/predict", json=body, timeout=DEADLINE_S).json()
    return str(reply["results"][0]["result"][0]["value"]["text"][0])


def test_without_onnx_runtime_torch_serves_the_same_captions_and_says_so(
    services: Services, workplace: Workplace, image_server: ImageServer
) -> None:
    address = image_server.show("/dog.png", "yellow")
    fast = start(services, workplace, SERVE)
    expected, fast_runtime = caption(fast, address), requests.get(f"{fast.url}/ready", timeout=DEADLINE_S).json()
    services.stop(fast)

    backend = start(services, workplace, WITHOUT_ONNX_RUNTIME + SERVE)

    runtime = requests.get(f"{backend.url}/ready", timeout=DEADLINE_S).json()["runtime"]
    assert fast_runtime["runtime"].startswith("ONNX Runtime")
    assert runtime.startswith("torch ")
    assert runtime.endswith("onnxruntime and onnx are not installed")
    assert caption(backend, address) == expected


def test_the_backend_ends_without_a_word_of_its_libraries(
    services: Services, workplace: Workplace, image_server: ImageServer
) -> None:
    backend = start(services, workplace, SERVE)
    caption(backend, image_server.show("/dog.png", "yellow"))

    services.stop(backend)

    assert backend.process.returncode == 0
    assert "terminate called" not in backend.log.read_text()
