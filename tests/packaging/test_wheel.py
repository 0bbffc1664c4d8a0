"""The wheel as people install it: built from the source, installed by pip and uv, and used far from the source tree.

Real: the wheel; pip with its ordinary resolver, which resolves torch too; the download and the installation of every
package but torch's; the commands, Redis and the store.

Shared: torch, torchvision and CUDA's packages (5 GB) are links to those of the tests' own environment. pip takes them
for installed, and resolves what they require with everything else. uv only resolves here.

With INSTALL_EVERYTHING=1 (`make install-check`) nothing is shared: pip starts with an empty environment, and
`uv tool install` installs everything as well.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import requests

from tests.factories import make_image
from tests.installation import ROOT, Installation, build_wheel, plain_environment, run_installer
from tests.workplace import Workplace

SHARES_TORCH = os.environ.get("INSTALL_EVERYTHING") != "1"
DEADLINE_S = 120
PROTOCOL_TESTS = (
    "tests/unit/backend/captioning/test_backend_base.py",
    "tests/unit/backend/protocol",
    "tests/integration/test_predict.py",
    "tests/integration/test_webhook.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel with its extra `demo`, installed by pip."""
    folder = tmp_path_factory.mktemp("installation")
    installation = Installation(folder / "venv")
    if SHARES_TORCH:
        installation.link_torch()
    installation.pip("install", "--no-compile", f"{wheel}[demo]")
    yield installation
    shutil.rmtree(folder)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        "REDIS_URL": redis_url,
        "MODEL_STORE": str(tmp_path / "store"),
        "PORT": str(port),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
    }


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a program to its end in a folder far from the source tree; return what it wrote."""
    finished = subprocess.run(
        command,
        cwd=folder,
        env=plain_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S * 3,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@contextmanager
def serving(installation: Installation, folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """Run `captioner serve`; yield its address."""
    log = folder / "serve.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(installation.captioner), "serve"],
            cwd=folder,
            env=plain_environment(**settings),
            stdout=output,
            stderr=output,
        ) as process,
    ):
        yield f"http://127.0.0.1:{settings['PORT']}"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, log.read_text()


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())

    sources = {
        str(path.relative_to(ROOT))
        for package in ("backend", "model", "worker")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    assert names - metadata == sources


def test_pip_leaves_no_requirement_open(installation: Installation) -> None:
    installation.pip("check")


def test_label_studio_ml_is_not_installed(installation: Installation) -> None:
    installed = {path.name for path in installation.packages.iterdir()}

    assert "flask" in installed
    assert "label_studio_ml" not in installed


def test_the_command_explains_itself(installation: Installation, tmp_path: Path) -> None:
    text = run([str(installation.captioner), "--help"], tmp_path)

    assert "serve" in text
    assert "worker" in text


def test_a_photo_gets_a_caption(installation: Installation, tmp_path: Path) -> None:
    make_image().save(tmp_path / "photo.jpg")

    text = run([str(installation.captioner), "caption", "photo.jpg"], tmp_path)

    assert "photo.jpg" in text


def test_the_backend_answers_and_a_worker_ends_when_nothing_is_queued(
    installation: Installation, tmp_path: Path, settings: dict[str, str]
) -> None:
    with serving(installation, tmp_path, settings) as address:
        health, ready = answer(f"{address}/health"), answer(f"{address}/ready")
        run([str(installation.captioner), "worker", "--burst"], tmp_path, **settings)

    assert health["status"] == "UP"
    assert ready["checks"] == {"redis": "ok", "store": "ok", "model": "ok"}


def test_the_protocol_is_the_same_without_label_studio_ml(installation: Installation, tmp_path: Path) -> None:
    installation.link_test_tools()
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # Newer packages than the pinned ones may be installed here: their warnings are no errors.
    options = ["-q", "-n", "2", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]

    text = run([str(installation.python), "-m", "pytest", *options, *PROTOCOL_TESTS], tmp_path)

    assert " passed" in text


def test_uv_resolves_the_wheel(wheel: Path, tmp_path: Path) -> None:
    empty = Installation(tmp_path / "venv")

    run_installer([uv(), "pip", "install", "--dry-run", "--python", str(empty.python), f"{wheel}[demo]"])


@pytest.mark.skipif(SHARES_TORCH, reason="installs torch once more; `make install-check` does")
def test_uv_installs_the_command_as_a_tool(wheel: Path, tmp_path: Path) -> None:
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}

    run_installer([uv(), "tool", "install", "--python", sys.executable, f"{wheel}[demo]"], **folders)

    assert "serve" in run([str(tmp_path / "bin/captioner"), "--help"], tmp_path)
    shutil.rmtree(tmp_path / "tools")  # 6 GB, which pytest would keep


def uv() -> str:
    return str(Path(sys.executable).parent / "uv")


def answer(url: str) -> dict[str, Any]:
    """Wait until the backend answers with 200; return what it says."""
    replies: list[requests.Response] = []

    def has_answered() -> bool:
        with suppress(requests.ConnectionError):
            replies.append(requests.get(url, timeout=DEADLINE_S))
        return bool(replies) and replies[-1].status_code == 200

    Workplace.wait_until(has_answered)
    content: dict[str, Any] = replies[-1].json()
    return content
