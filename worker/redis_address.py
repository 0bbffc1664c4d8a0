"""The form of REDIS_URL: one server, options that redis-py knows, and certificates that are there."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from redis import ConnectionPool

SCHEMES = ("redis", "rediss", "unix")


def check_redis_url(value: str) -> str:
    """Return the address if a client can be made of it. Nothing is connected.

    Raises:
        ValueError: the message completes the sentence "REDIS_URL must be ...".
    """
    if "sentinel" in value.partition("://")[0].lower():
        raise ValueError(
            "the address of one server, because Sentinel is not supported (name a host that always leads to the "
            "primary, such as a managed Redis or HAProxy before your servers)"
        )
    if not is_address(value, SCHEMES):
        raise ValueError("an address like redis://host:6379/0, rediss://... or unix:///path")
    try:
        ConnectionPool.from_url(value).make_connection()
    except (TypeError, ValueError):
        raise ValueError(
            "an address whose options redis-py knows, like rediss://host:6379/0?ssl_ca_certs=/path/ca.pem (options "
            "that begin with ssl_ need rediss://)"
        ) from None
    for path in parse_qs(urlsplit(value).query).get("ssl_ca_certs", ()):
        if not Path(path).is_file():
            raise ValueError(f"an address whose ssl_ca_certs names a file with certificates ({path} is no file here)")
    return value


def is_address(value: str, schemes: Sequence[str]) -> bool:
    """Return True if this is a URL of one of the schemes with a host, or for `unix` with a path."""
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises when it is not a number
    except ValueError:
        return False
    has_place = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname)
    return parts.scheme in schemes and has_place
