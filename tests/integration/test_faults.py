"""A few rounds of `make faults`: the product is broken while people annotate, and everything is reconciled after."""

from pathlib import Path

import pytest

from tests.faults.__main__ import on_stub

FAULTS = (
    ("everything is killed", "files are damaged", "the memory of Redis is full"),
    ("the worker is killed", "the disk is full", "the clock is moved"),
)


@pytest.mark.long
@pytest.mark.parametrize("faults", FAULTS, ids=", ".join)
def test_nothing_is_lost_and_everything_goes_on(tmp_path: Path, faults: tuple[str, ...]) -> None:
    done = on_stub(rounds=len(faults), seed=5, folder=tmp_path, only=faults)

    assert done.violations == []
    assert set(done.counts) == set(faults)
