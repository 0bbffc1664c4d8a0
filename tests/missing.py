"""What a test does when a program that it needs is not installed."""

import os

import pytest


def missing(reason: str) -> None:
    """Skip on a laptop, fail where everything must be there."""
    if os.environ.get("CI", "false") not in {"", "0", "false"}:
        pytest.fail(reason)
    pytest.skip(reason)
