"""Holds back those who send wrong passwords: counted in Redis for all processes, in this one while Redis is away.

Wrong passwords count against the name and against the address they come from, of IPv6 its first half: who has one
address has all that share it. A stranger could so keep a person out who has the right one; therefore who has been in
from a place (a browser that signed in, else an address) is counted for that place alone.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
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

Found = TypeVar("Found")
Subject = TypeVar("Subject")
Answer = TypeVar("Answer")

Counted = tuple[tuple[RateLimitItem, str], ...]
"""Limits, and whose wrong passwords count towards each."""

PER_NAME = RateLimitItemPerMinute(5, multiples=5, namespace="name")
PER_ADDRESS = RateLimitItemPerMinute(20, multiples=5, namespace="address")
PER_PLACE = RateLimitItemPerMinute(5, multiples=5, namespace="place")
KNOWN_PLACE_S = 90 * 24 * 3600
REDIS_ANSWERS_WITHIN_S = 0.3
"""Label Studio gives /health one second, and a login is looked up before it is answered."""
REDIS_AWAY_S = 10.0
"""How long this process counts for itself before it asks Redis again."""

KEY_PREFIX = "captioner:wrong-passwords"


class Throttle:
    """The counters; nothing is connected before the first password comes."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._away_until = 0.0
        self._known: set[str] = set()

    def attempt(self, name: str, address: str, place: str | None, check: Callable[[], Found | None]) -> Found | None:
        """Return what the check of a password finds, None for a wrong one, which then counts.

        Args:
            name: that the password is sent with, known or not.
            address: that it comes from.
            place: what else tells where it comes from, if anything does.
            check: compares the password.

        Raises:
            TooManyRequests: there were too many wrong ones; nothing is checked, a right one neither.
        """
        network = _network(address)
        here = _digest(name, place or network)
        is_known = here in self._known or self._ask(_is_known, here)
        anywhere = ((PER_NAME, _digest(name)), (PER_ADDRESS, _digest(network)))
        counted: Counted = ((PER_PLACE, here),) if is_known else anywhere
        wait_s = self._ask(_wait_s, counted)
        if wait_s:
            raise TooManyRequests(f"too many wrong passwords; try again in {wait_s} s", retry_after=wait_s)
        found = check()
        if found is None:
            self._ask(_count, counted)
        elif here not in self._known:
            self._ask(_remember, here)
            self._known.add(here)
        return found

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
        # The pool has the address; the storage wants to see a scheme only.
        return FixedWindowRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix=KEY_PREFIX))

    @cached_property
    def _own(self) -> FixedWindowRateLimiter:
        return FixedWindowRateLimiter(MemoryStorage())


def _is_known(counts: FixedWindowRateLimiter, here: str) -> bool:
    return counts.storage.get(f"known/{here}") > 0


def _remember(counts: FixedWindowRateLimiter, here: str) -> None:
    """Say that somebody has been in from here; for 90 days from the first time."""
    counts.storage.incr(f"known/{here}", KNOWN_PLACE_S)


def _wait_s(counts: FixedWindowRateLimiter, counted: Counted) -> int:
    """Return the seconds until another password is looked at; 0 is now."""
    full = [one for one in counted if not counts.test(*one)]
    ends = (counts.get_window_stats(*one).reset_time for one in full)
    return max((max(1, math.ceil(end - time.time())) for end in ends), default=0)


def _count(counts: FixedWindowRateLimiter, counted: Counted) -> None:
    for one in counted:
        counts.hit(*one)


def _network(address: str) -> str:
    """Return the /64 of an IPv6 address; any other as it is."""
    try:
        found = ip_address(address)
    except ValueError:
        return address  # a socket
    # What looks like ::ffff:192.0.2.1 is an IPv4 address on a port that takes both.
    if not isinstance(found, IPv6Address) or found.ipv4_mapped:
        return address
    return found.packed[:8].hex()


def _digest(*parts: str) -> str:
    """Return a short key; people type passwords into the field for the name, and that must not stand in Redis."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
