"""Stops processes and their children, even if the process that started them was killed.

`Services` starts this file as a process and sends it a line for each process that it starts (`+pid`) or has stopped
(`-pid`). When the pipe closes for any reason, the watchdog stops the processes that are left.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import IO

import psutil

PATIENCE_S = 10.0
"""Time for processes to end after SIGTERM before they are killed."""


def stop_trees(pids: Iterable[int], patience_s: float = PATIENCE_S) -> None:
    """Ask each process to end; after `patience_s` kill it and whatever it had started."""
    leaders = [process for pid in pids if (process := _process(pid)) is not None]
    # Listed before the first signal, because an orphan no longer has its parent's id.
    descendants = [child for leader in leaders for child in _children(leader)]
    for leader in leaders:
        _signal(leader, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(leaders, timeout=patience_s)
    leftover = {*stubborn, *descendants, *(child for leader in stubborn for child in _children(leader))}
    for process in leftover:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(leftover, timeout=patience_s)


class Watchdog:
    """The watching process; it ends after `close`, or when this process ends in any way."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal must not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.demo.watchdog"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def add(self, pid: int) -> None:
        self._tell(f"+{pid}")

    def remove(self, pid: int) -> None:
        self._tell(f"-{pid}")

    def close(self) -> None:
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)


def watch(lines: IO[str]) -> None:
    """Keep the list of running processes until the pipe closes, then stop those still on it."""
    running: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            running.add(pid)
        else:
            running.discard(pid)
    stop_trees(running)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(sys.stdin)
