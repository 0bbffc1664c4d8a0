"""Progress shows as a bar on a terminal and as lines elsewhere."""

import io
import sys

import pytest

from model.progress import Progress, ProgressDisplay


class Terminal(io.StringIO):
    """A standard error that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_off_a_terminal_are_few_and_the_last_is_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as show:
        for done in range(1, 101):
            show(Progress(phase="encode images", done=done, total=100))
        show(Progress(phase="train decoder", done=1, total=2, note="loss 2.31"))

    assert capsys.readouterr().err.splitlines() == [
        "encode images: 1/100",
        "encode images: 100/100",
        "train decoder: 1/2 loss 2.31",
    ]


def test_a_terminal_gets_one_bar_per_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    with ProgressDisplay() as show:
        show(Progress(phase="encode images", done=4, total=4))
        show(Progress(phase="train decoder", done=2, total=4, note="loss 2.31"))

    bars = terminal.getvalue()
    assert "encode images: 100%" in bars
    assert "train decoder:  50%" in bars
    assert "loss 2.31" in bars
