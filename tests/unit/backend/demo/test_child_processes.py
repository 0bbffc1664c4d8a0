import socket
import sys
from pathlib import Path

import pytest

from backend.demo.child_processes import LOOPBACK, Services, bare_environment, free_port, our_environment, wait_until
from backend.demo.product import chosen_bundle
from model.errors import ServiceError


def test_a_free_port_is_taken_as_wished() -> None:
    wished = free_port()

    assert free_port(wished) == wished


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]

        assert free_port(taken) != taken


def test_a_service_gets_our_settings_and_no_stray_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "my-laptop")
    monkeypatch.setenv("BEAM_SIZE", "0")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")

    environ = our_environment({"HOST": LOOPBACK})

    assert environ["HOST"] == LOOPBACK
    assert "BEAM_SIZE" not in environ
    assert environ["HTTPS_PROXY"] == "http://proxy"


def test_a_foreign_program_sees_no_variable_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEBUG", "true")

    environ = bare_environment(tmp_path)

    assert "DEBUG" not in environ
    assert environ["HOME"] == str(tmp_path)


def test_a_service_that_ends_at_its_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = "import sys; sys.exit('no such bundle')"

    with Services(tmp_path / "logs") as services:
        service = services.start("backend", [sys.executable, "-c", program], url="http://nowhere", environ={})

        with pytest.raises(ServiceError, match=r"(?s)backend ended.*no such bundle"):
            wait_until(service, lambda: False, timeout_s=20)


def test_leaving_stops_what_was_started(tmp_path: Path) -> None:
    with Services(tmp_path / "logs") as services:
        program = "import signal; signal.pause()"
        service = services.start("worker", [sys.executable, "-c", program], url="redis://nowhere", environ={})

        assert service.is_running

    assert not service.is_running


def test_the_demo_captions_with_the_bundle_for_its_pictures_unless_a_person_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CAPTION_BUNDLE", raising=False)
    assert chosen_bundle(Path("my-pictures")) == {"CAPTION_BUNDLE": "photos"}
    assert chosen_bundle(None) == {"CAPTION_BUNDLE": "scenes"}

    monkeypatch.setenv("CAPTION_BUNDLE", "mine")
    assert chosen_bundle(Path("my-pictures")) == {"CAPTION_BUNDLE": "mine"}
