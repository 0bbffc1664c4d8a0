"""A small part of `make fuzz`: odd requests to a real backend are refused, and it goes on."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.demo.child_processes import Services
from tests.factories import write_bundle
from tests.fuzz import fuzz, fuzz_bundles, start

REQUESTS = 1000


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


def test_odd_requests_are_never_a_failure(services: Services, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")

    service, redis = start(services, tmp_path, str(bundle))
    statuses, violations = fuzz(service, redis, tmp_path / "store", REQUESTS, seed=7, answer_s=math.inf)

    assert violations == []
    assert statuses[200] > REQUESTS / 10
    assert statuses[400] > REQUESTS / 10
    assert statuses[429] < REQUESTS / 50, "requests must reach the routes"


def test_a_changed_bundle_loads_or_is_refused_in_a_sentence(tmp_path: Path) -> None:
    assert fuzz_bundles(write_bundle(tmp_path / "bundle"), count=10, seed=7) == []
