"""The address of Label Studio for browsers, as `/setup` told it last."""

from typing import Any

import pytest
from redis import Redis

from backend.label_studio.public_address import READ_AGAIN_S, PublicAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://localhost:8080", "http://localhost:8080/"),
        ("HTTPS://Labels.Example/ls/", "https://labels.example/ls/"),
        ("http://[::1]:8080", "http://[::1]:8080/"),
        ("", None),
        (None, None),
        (7, None),
        ("labels.example", None),
        ("ftp://labels.example", None),
        ("http://", None),
        ("http://user:secret@labels.example", None),
        ("http://labels.example/?d=1", None),
        ("http://labels.example:port", None),
        ("http://labels.example/\n", None),
        ("http://" + "a" * 600, None),
    ],
)
def test_only_the_address_of_a_web_server_is_kept(text: Any, address: str | None) -> None:
    assert parse_address(text) == address


def test_every_process_knows_what_another_was_sent(redis: Redis) -> None:
    now = 0.0
    written, other = PublicAddress(redis, lambda: now), PublicAddress(redis, lambda: now)
    assert other.read() is None

    written.note("http://localhost:8080")
    now = READ_AGAIN_S

    assert (written.read(), other.read()) == ("http://localhost:8080/", "http://localhost:8080/")
    written.note("https://labels.example")
    written.note("no address")
    now += READ_AGAIN_S
    assert other.read() == "https://labels.example/"


def test_without_redis_the_last_address_is_known(redis: Redis) -> None:
    now = 0.0
    address = PublicAddress(redis, lambda: now)
    address.note("http://localhost:8080")
    address._redis = Redis(port=1)
    now = READ_AGAIN_S

    address.note("https://labels.example")

    assert address.read() == "http://localhost:8080/"
