"""Which workers are alive: each gives a beat every second, and whoever wants to know reads the beats.

    captioner:heartbeats   zset   worker name -> Unix time of its last beat

A beat is a moment on Redis' clock, so the clocks of two machines are never compared. It comes from a thread beside the
worker's loop: RQ's own heartbeat comes every 15 seconds or seldomer, and waits when the loop does.
"""

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from model.errors import SettingsError
from worker.redis_client import connect
from worker.settings import hide_password

HEARTBEATS_KEY = "captioner:heartbeats"
BEAT_EVERY_S = 1.0
LOST_AFTER_S = 10.0
"""Longer than a machine is paused to be moved or a busy one is late; short enough to be noticed within 15 s."""
KEPT_S = 3600
"""How long a lost worker is told of."""

BEAT = f"""
local now = redis.call('TIME')
local seconds = now[1] + now[2] / 1e6
redis.call('ZADD', KEYS[1], string.format('%.6f', seconds), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', seconds - {KEPT_S}))
"""


@contextmanager
def beating(redis_url: str, name: str, after_beat: Callable[[Redis], None]) -> Iterator[None]:
    """Let a worker be known as alive for as long as this lasts, and afterwards be known no more.

    Args:
        redis_url: REDIS_URL.
        name: of the worker.
        after_beat: called after each beat, with a client that gives up fast.
    """
    redis, is_over = connect(redis_url), threading.Event()

    def beat_on() -> None:
        while not is_over.is_set():
            with suppress(RedisError):  # whoever looks cannot do so either
                beat(redis, name)
                after_beat(redis)
            is_over.wait(BEAT_EVERY_S)

    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=2 * BEAT_EVERY_S)
        with suppress(RedisError):  # then it is forgotten in an hour
            redis.zrem(HEARTBEATS_KEY, name)


def beat(redis: Redis, name: str) -> None:
    """Say that a worker is alive at this moment."""
    redis.register_script(BEAT)(keys=[HEARTBEATS_KEY], args=[name])


def heartbeats(redis: Redis) -> dict[str, float]:
    """Return the last beat of each worker that did not sign off, Unix time on Redis' clock."""
    beats = cast(list[tuple[bytes, float]], redis.zrange(HEARTBEATS_KEY, 0, -1, withscores=True))
    return {name.decode(): at for name, at in beats}


def heartbeat_ages_s(redis: Redis) -> dict[str, float]:
    """Return how long ago each worker that did not sign off gave its last beat."""
    seconds, microseconds = redis.time()
    return {name: max(0.0, seconds + microseconds / 1e6 - at) for name, at in heartbeats(redis).items()}


def is_alive(heartbeat_age_s: float | None) -> bool:
    """Tell whether a worker with a beat of this age counts as alive."""
    return heartbeat_age_s is not None and heartbeat_age_s < LOST_AFTER_S


def living_workers(redis: Redis) -> set[str]:
    """Return the names of the workers that are alive, on any machine."""
    return {name for name, age_s in heartbeat_ages_s(redis).items() if is_alive(age_s)}


def is_worker_alive(redis_url: str, machine: str | None = None) -> bool:
    """Tell whether a worker of the machine is alive.

    Args:
        redis_url: REDIS_URL.
        machine: host name that the worker's name begins with; None is this machine.

    Raises:
        SettingsError: Redis does not answer, so nobody can know.
    """
    machine = machine or socket.gethostname()
    try:
        with Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as redis:
            return any(name.startswith(f"{machine}-") for name in living_workers(redis))
    except RedisError as cause:
        raise SettingsError(f"Redis at {hide_password(redis_url)} does not answer: {cause}") from cause


class Watch:
    """Decides which workers are lost, by looking at their beats again and again.

    Nobody is lost for what the clocks say: a beat may be old because Redis was away, or because the machine that looks
    was asleep. Only what this watch has seen itself counts: so many looks in a row, each answered by Redis, between
    which the beat stayed the same. A worker whose machine is paused for 5 s has half of LOST_AFTER_S left; after a
    Redis that was away all silence is forgotten and its workers have all of it to come back.
    """

    LOOK_EVERY_S = 1.0

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._beats: dict[str, float | None] = {}
        self._silent_s: dict[str, float] = {}

    def look(self, beats: Mapping[str, float], names: Collection[str], now: float | None = None) -> set[str]:
        """Return those of these workers that are lost.

        Args:
            beats: of all workers, as `heartbeats` returns them; one that has none is as silent as one whose beat stays.
            names: of the workers that somebody waits for.
            now: monotonic seconds; None is this moment.
        """
        now = time.monotonic() if now is None else now
        # A look that comes late says nothing of the time in which nobody looked.
        passed, self._looked_at = min(now - self._looked_at, 2 * self.LOOK_EVERY_S), now
        silent_s = {}
        for name in names:
            is_same = name in self._beats and self._beats[name] == beats.get(name)
            silent_s[name] = self._silent_s[name] + passed if is_same else 0.0
        self._beats, self._silent_s = {name: beats.get(name) for name in names}, silent_s
        return {name for name, seconds in silent_s.items() if seconds >= LOST_AFTER_S}

    def forget(self) -> None:
        """Begin anew: Redis did not answer, and its workers could not reach it either."""
        self._beats, self._silent_s = {}, {}
