"""A server with the API of S3 as a process of its own: moto's, which keeps objects in memory."""

import subprocess
import sys
import time
from pathlib import Path

import requests

from backend.demo.child_processes import free_port

STARTS_WITHIN_S = 60


class S3Server:
    """A server on loopback with one bucket. `environment` leads every client of S3 to it."""

    bucket = "captions"

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "of-the-test",
            "AWS_SECRET_ACCESS_KEY": "of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start and return once the bucket exists."""
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_at = time.monotonic() + STARTS_WITHIN_S
        while not self._makes_bucket():
            assert self._process.poll() is None, f"it ended: {self._log.read_text()[-2000:]}"
            assert time.monotonic() < give_up_at, f"it does not answer: {self._log.read_text()[-2000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _makes_bucket(self) -> bool:
        try:
            return requests.put(f"{self.url}/{self.bucket}", timeout=5).ok
        except requests.ConnectionError:
            return False
