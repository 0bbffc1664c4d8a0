"""A round of `make faults` with a real Label Studio."""

from pathlib import Path

import pytest

from backend.demo.child_processes import label_studio_executable
from model.errors import ServiceError
from tests.faults.__main__ import on_label_studio
from tests.missing import missing


@pytest.fixture(autouse=True)
def needs_label_studio() -> None:
    try:
        label_studio_executable()
    except ServiceError as reason:
        missing(str(reason))


def test_nothing_is_lost_when_everything_is_killed(tmp_path: Path) -> None:
    done = on_label_studio(rounds=1, seed=5, folder=tmp_path, only=["everything is killed"])

    assert done.violations == []
