"""The address that Label Studio has for browsers, as `/setup` tells it: LABEL_STUDIO_HOST, or else a loopback address.

Tasks of storages name their files with this address in full, while we reach Label Studio at LABEL_STUDIO_URL. The
address only says which files are Label Studio's. The API key is never sent there, whoever called `/setup`.

    captioner:label-studio-address   text   the address that was sent last
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis import Redis, RedisError
from rq.utils import as_text
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

ADDRESS_KEY = "captioner:label-studio-address"
READ_AGAIN_S = 10.0
"""Another process may have been sent another address."""
LONGEST_ADDRESS = 500
"""Characters."""


class PublicAddress:
    """What Label Studio sent, kept in Redis for every process of this installation; safe to share between threads."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._known: str | None = None
        self._read_at: float | None = None
        self._reading = threading.Lock()

    def note(self, text: Any) -> None:
        """Keep the `hostname` of a call of `/setup`; what is no address of a web server is ignored."""
        address = parse_address(text)
        if address is None or address == self.read():
            return
        with suppress(RedisError):  # the next /setup tells it again
            self._redis.set(ADDRESS_KEY, address)
            self._known = address

    def read(self) -> str | None:
        """Return the address, with a slash at its end; None if it was never sent.

        While Redis does not answer, it is the one that this process read last.
        """
        with self._reading:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= READ_AGAIN_S:
                self._read_at = now
                with suppress(RedisError):
                    stored = self._redis.get(ADDRESS_KEY)
                    self._known = None if stored is None else parse_address(as_text(stored))
            return self._known


def parse_address(text: Any) -> str | None:
    """Return an address in one spelling, with a slash at its end; None if it is no address of a web server."""
    if not isinstance(text, str) or len(text) > LONGEST_ADDRESS or not text.isprintable():
        return None
    try:
        parts = parse_url(text.strip())
    except LocationParseError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.host or parts.auth or parts.query:
        return None
    return f"{parts.scheme}://{parts.netloc}{(parts.path or '').rstrip('/')}/"
