"""Limits on wrong passwords, counted in Redis for all processes, or in this process while Redis does not answer.

Wrong passwords count against the user name and against the address. Of an IPv6 address only the first half counts,
because whoever has one such address has all that share this half. A stranger could lock out a user in this way.
Therefore a place from which the user has signed in before (a browser, or else an address) is counted by itself.
"""

import hashlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.exceptions import TooManyRequests

logger = logging.getLogger(__name__)

Identity = TypeVar("Identity")
Subject = TypeVar("Subject")
Answer = TypeVar("Answer")

Counters = tuple[tuple[RateLimitItem, str], ...]
"""Pairs of a limit and the key that is counted against it."""

PER_NAME = RateLimitItemPerMinute(5, multiples=5, namespace="name")
PER_ADDRESS = RateLimitItemPerMinute(20, multiples=5, namespace="address")
PER_PLACE = RateLimitItemPerMinute(5, multiples=5, namespace="place")
PLACE_REMEMBERED_S = 90 * 24 * 3600
REDIS_ANSWERS_WITHIN_S = 0.3
"""Label Studio waits one second for /health, and the login is checked within that second."""
REDIS_AWAY_S = 10.0
"""After Redis did not answer, this process counts alone for this long."""

CHECKED_WITHIN_S = 1.0
KEY_PREFIX = "captioner:wrong-passwords"


class Throttle:
    """Counters of wrong passwords; Redis is connected when the first password is checked."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._away_until = 0.0
        self._remembered: set[str] = set()
        self._changed = threading.Condition()
        self._in_flight: Counter[str] = Counter()
        """Passwords that are being checked, by the keys that count them if they are wrong."""

    def attempt(
        self, name: str, address: str, place: str | None, check: Callable[[], Identity | None]
    ) -> Identity | None:
        """Check a password and return the result; None means a wrong password, which is counted.

        Args:
            name: user name that came with the password; it may be unknown.
            address: address that the password came from.
            place: the browser that it came from, if that has signed in before.
            check: compares the password.

        Raises:
            TooManyRequests: there were too many wrong passwords, so not even a right one is checked.
        """
        network = _network(address)
        here = _digest(name, place or network)
        is_remembered = here in self._remembered or self._ask(_is_remembered, here)
        anywhere = ((PER_NAME, _digest(name)), (PER_ADDRESS, _digest(network)))
        counters: Counters = ((PER_PLACE, here),) if is_remembered else anywhere
        with self._checking(counters):
            identity = check()
            if identity is None:
                self._ask(_count, counters)
        if identity is not None and here not in self._remembered:
            self._ask(_remember, here)
            self._remembered.add(here)
        return identity

    @contextmanager
    def _checking(self, counters: Counters) -> Iterator[None]:
        """Let so many passwords be checked at a time that their number stays below the limit if all are wrong.

        Raises:
            TooManyRequests: there were too many wrong passwords.
        """
        with self._changed:
            while True:
                wait_s = self._ask(_wait_s, counters)
                if wait_s:
                    raise TooManyRequests(f"too many wrong passwords; try again in {wait_s} s", retry_after=wait_s)
                if all(self._in_flight[key] < self._ask(_remaining, (limit, key)) for limit, key in counters):
                    break
                self._changed.wait(CHECKED_WITHIN_S)
            self._in_flight.update(key for _, key in counters)
        try:
            yield
        finally:
            with self._changed:
                self._in_flight.subtract(key for _, key in counters)
                for _, key in counters:
                    if self._in_flight[key] <= 0:
                        del self._in_flight[key]
                self._changed.notify_all()

    def _ask(self, question: Callable[[FixedWindowRateLimiter, Subject], Answer], subject: Subject) -> Answer:
        if time.monotonic() >= self._away_until:
            try:
                return question(self._shared, subject)
            except RedisError as problem:
                logger.warning("wrong passwords are counted by this process alone problem=%s", problem)
                self._away_until = time.monotonic() + REDIS_AWAY_S
        return question(self._own, subject)

    @cached_property
    def _shared(self) -> FixedWindowRateLimiter:
        pool = ConnectionPool.from_url(
            self._redis_url,
            socket_connect_timeout=REDIS_ANSWERS_WITHIN_S,
            socket_timeout=REDIS_ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), retries=1),
        )
        # The pool knows the address; the storage only reads the scheme.
        return FixedWindowRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix=KEY_PREFIX))

    @cached_property
    def _own(self) -> FixedWindowRateLimiter:
        return FixedWindowRateLimiter(MemoryStorage())


def _is_remembered(limiter: FixedWindowRateLimiter, here: str) -> bool:
    return limiter.storage.get(f"known/{here}") > 0


def _remember(limiter: FixedWindowRateLimiter, here: str) -> None:
    """Remember for 90 days from the first time that the user has signed in from here."""
    limiter.storage.incr(f"known/{here}", PLACE_REMEMBERED_S)


def _wait_s(limiter: FixedWindowRateLimiter, counters: Counters) -> int:
    """Return the seconds until another password is checked; 0 means now."""
    full = [(limit, key) for limit, key in counters if not limiter.test(limit, key)]
    ends = (limiter.get_window_stats(limit, key).reset_time for limit, key in full)
    return max((max(1, math.ceil(end - time.time())) for end in ends), default=0)


def _remaining(limiter: FixedWindowRateLimiter, counter: tuple[RateLimitItem, str]) -> int:
    """Return how many wrong passwords may still be counted."""
    limit, key = counter
    return limiter.get_window_stats(limit, key).remaining


def _count(limiter: FixedWindowRateLimiter, counters: Counters) -> None:
    for limit, key in counters:
        limiter.hit(limit, key)


def _network(address: str) -> str:
    """Return the first half of an IPv6 address; any other address as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # a socket
    # An address like ::ffff:192.0.2.1 is an IPv4 address on a port that takes both kinds.
    if not isinstance(parsed, IPv6Address) or parsed.ipv4_mapped:
        return address
    return parsed.packed[:8].hex()


def _digest(*parts: str) -> str:
    """Return a short hash: people type passwords into the field for the name, and Redis must not hold those."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
