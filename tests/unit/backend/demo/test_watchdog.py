import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from backend.demo.watchdog import Watchdog, stop_trees

PARENT = "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
PARENT += "; print(c.pid, flush=True); sys.stdin.read()"
STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); sys.stdin.read()"
)
DEADLINE_S = 20


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process that started another process and printed its id."""
    with started(PARENT) as process:
        yield process


def started(program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def child_of(parent: subprocess.Popen[str]) -> psutil.Process:
    assert parent.stdout is not None
    return psutil.Process(int(parent.stdout.readline()))


def test_what_a_process_started_ends_with_it(parent: subprocess.Popen[str]) -> None:
    child = child_of(parent)

    stop_trees([parent.pid])

    assert not psutil.pid_exists(parent.pid)
    assert not child.is_running()


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    with started(STUBBORN) as stubborn:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == "ready\n"

        stop_trees([stubborn.pid], patience_s=0.1)

        assert not psutil.pid_exists(stubborn.pid)


def test_a_process_that_is_gone_is_no_error(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait(DEADLINE_S)

    stop_trees([parent.pid])


def test_killing_the_one_who_started_them_stops_them_all(parent: subprocess.Popen[str]) -> None:
    child = child_of(parent)
    starter = started(
        f"from backend.demo.watchdog import Watchdog; Watchdog().add({parent.pid}); print(flush=True); input()"
    )
    assert starter.stdout is not None
    starter.stdout.readline()

    os.kill(starter.pid, signal.SIGKILL)

    parent.wait(DEADLINE_S)
    child.wait(DEADLINE_S)
    starter.communicate()


def test_a_process_that_was_removed_outlives_the_watchdog(parent: subprocess.Popen[str]) -> None:
    watchdog = Watchdog()
    watchdog.add(parent.pid)
    watchdog.remove(parent.pid)

    watchdog.close()

    assert parent.poll() is None
    stop_trees([parent.pid])
