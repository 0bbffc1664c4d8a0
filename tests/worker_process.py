"""A real worker process, as `captioner worker` and the container start it; it also runs the jobs of tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil


class WorkerProcess:
    """A process `python -m worker` with its own environment and log, which a test can stop, kill and watch."""

    def __init__(
        self, log: Path, environment: Mapping[str, str], *arguments: str, module: str = "tests.open_worker"
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout_s: float = 30) -> int:
        """Send SIGTERM, as a container runtime does, and return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return its exit status."""
        return self._process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """End it and every process it started, as a power cut would."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):  # a job may come to its end in this moment
                process.kill()
        self._process.wait()

    def family(self) -> list[psutil.Process]:
        """Return it and the processes it started, those of jobs included."""
        if not self.is_alive:
            return []
        own = psutil.Process(self.pid)
        return [own, *own.children(recursive=True)]
