"""The product installed from its wheel into an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.missing import missing

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "backend", "model", "worker")
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
"""Variables that would lead back to the source tree or the environment of the tests."""
OFFLINE = ("NewConnectionError", "NameResolutionError", "Network is unreachable", "dns error", "error sending request")
TORCH = re.compile(r"^((?:torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+))==", re.MULTILINE)
PINNED = re.compile(r"^([\w.-]+)==", re.MULTILINE)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a clean copy of what the Dockerfile copies, so that no old build leaks into it."""
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


class Installation:
    """A virtual environment, empty at first."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self._folder = folder

    @property
    def python(self) -> Path:
        return self._folder / "bin/python"

    @property
    def captioner(self) -> Path:
        return self._folder / "bin/captioner"

    @property
    def packages(self) -> Path:
        [packages] = self._folder.glob("lib/python*/site-packages")
        return packages

    def link(self, names: Iterable[str]) -> None:
        """Link packages of the tests' own environment into this one; pip takes them for installed."""
        for name in names:
            with suppress(PackageNotFoundError):  # not for this platform
                files = distribution(name).files or []
                for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                    link = self.packages / top
                    if not link.exists():
                        link.symlink_to(Path(str(distribution(name).locate_file(top))))

    def link_torch(self) -> None:
        """Link torch, torchvision and CUDA's packages: 5 GB."""
        self.link(TORCH.findall((ROOT / "requirements.txt").read_text()))

    def link_test_tools(self) -> None:
        """Link what the tests need beside the product."""
        self.link(PINNED.findall((ROOT / "requirements-dev.txt").read_text()))

    def pip(self, *words: str) -> None:
        run_installer([str(self.python), "-m", "pip", *words])


def run_installer(command: list[str], **environment: str) -> None:
    """Run pip or uv; without a network, skip the test or in CI fail it."""
    finished = subprocess.run(
        command, env=plain_environment(**environment), capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        output = finished.stdout[-2000:] + finished.stderr[-4000:]
        if any(symptom in output for symptom in OFFLINE):
            missing(f"no package index answers: {output[-300:]}")
        pytest.fail(f"{' '.join(command)} ended with {finished.returncode}: {output}")


def plain_environment(**changes: str) -> dict[str, str]:
    """Return the environment variables without those that lead to the source tree."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | changes
