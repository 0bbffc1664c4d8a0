"""Progress of long work: the work reports it, and a display shows it."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Never, Self

from tqdm import tqdm

LINE_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of one phase of the work."""

    phase: str
    """Such as "encode images"."""
    done: int
    total: int
    note: str = ""
    """Such as "loss 2.31"."""


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Show nothing."""


class ProgressDisplay:
    """Shows progress on standard error: a bar on a terminal, else a line every 10 seconds.

    with ProgressDisplay() as show:
        train_bundle(..., on_progress=show)
    """

    def __init__(self) -> None:
        self._phase = ""
        self._bar: tqdm[Never] | None = None
        self._next_line_at = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.phase != self._phase:
            self._close()
            self._phase = progress.phase
            self._next_line_at = 0.0
        if sys.stderr.isatty():
            self._draw(progress)
        elif progress.done >= progress.total or time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_EVERY_S
            line = f"{progress.phase}: {progress.done}/{progress.total} {progress.note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(total=progress.total, desc=progress.phase, file=sys.stderr)
        self._bar.set_postfix_str(progress.note, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
