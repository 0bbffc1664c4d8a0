"""A real training on a few generated pictures, as `captioner train` and torchrun start it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.factories import make_image

COLORS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange", "pink", "brown")
ROOT = Path(__file__).parents[1]


def write_pictures(folder: Path) -> list[str]:
    """Write ten pictures with captions; return the arguments of a short `captioner train` on them, but --out."""
    rows = ["image,caption"]
    for color in COLORS:
        make_image(color).save(folder / f"{color}.png")
        rows += [f"{color}.png,a {color} picture", f"{color}.png,it is {color}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    (folder / "held-out.txt").write_text("pink.png\nbrown.png\n")
    source = ["--captions", str(folder / "captions.csv"), "--images", str(folder)]
    encoder = ["--encoder", "scene_cnn", "--weights", str(folder / "encoder.pth"), "--image-size", "32"]
    small = ["--hidden", "16", "--min-count", "1", "--batch-size", "3", "--learning-rate", "1e-2", "--device", "cpu"]
    epochs = ["--epochs", "4", "--reward-epochs", "2"]
    return ["train", *source, "--held-out-names", str(folder / "held-out.txt"), *encoder, *small, *epochs]


class TrainingProcess:
    """A training that a test can kill. Its output goes to a log."""

    def __init__(self, log: Path, command: list[str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill_once_there_is(self, file: Path, timeout_s: float = 120) -> None:
        """Kill it and its child processes, as a power cut would, as soon as it has written a file."""
        deadline = time.monotonic() + timeout_s
        while not file.exists():
            assert self._process.poll() is None, f"ended before {file} was there: {self.output()}"
            assert time.monotonic() < deadline, f"no {file} in {timeout_s:.0f} s: {self.output()}"
            time.sleep(0.01)
        own = psutil.Process(self._process.pid)
        for process in [own, *own.children(recursive=True)]:
            process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def finish(self, timeout_s: float = 300) -> str:
        """Wait for its end, which must be a success, and return its output."""
        code = self._process.wait(timeout_s)
        assert code == 0, self.output()
        return self.output()

    def output(self) -> str:
        return self._log.read_text("utf-8")
