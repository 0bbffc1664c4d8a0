"""Heartbeats of workers: each worker writes one every second, and others read them to see which workers are alive.

    captioner:heartbeats   zset   worker name -> Unix time of its last heartbeat

The time is that of Redis' clock, so the clocks of two machines are never compared. A thread beside the worker's loop
writes it. RQ's own heartbeat comes at most every 15 seconds, and not at all while the loop waits.
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
"""A busy machine, or one that is paused to be moved, is late by less. A loss is noticed within 15 s."""
KEPT_S = 3600
"""A lost worker is listed this long."""

BEAT = f"""
local now = redis.call('TIME')
local seconds = now[1] + now[2] / 1e6
redis.call('ZADD', KEYS[1], string.format('%.6f', seconds), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', seconds - {KEPT_S}))
"""


@contextmanager
def beating(redis_url: str, name: str, after_beat: Callable[[Redis], None]) -> Iterator[None]:
    """List a worker as alive while the block runs, and no longer.

    Args:
        redis_url: REDIS_URL.
        name: the worker's.
        after_beat: called after each heartbeat, with a client that gives up fast.
    """
    redis, is_over = connect(redis_url), threading.Event()

    def beat_on() -> None:
        while not is_over.is_set():
            with suppress(RedisError):  # nobody else can read heartbeats now either
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
        with suppress(RedisError):  # the name expires in an hour
            redis.zrem(HEARTBEATS_KEY, name)


def beat(redis: Redis, name: str) -> None:
    """Write that a worker is alive at this moment."""
    redis.register_script(BEAT)(keys=[HEARTBEATS_KEY], args=[name])


def heartbeats(redis: Redis) -> dict[str, float]:
    """Return the last heartbeat of each worker that did not sign off, Unix time on Redis' clock."""
    beats = cast(list[tuple[bytes, float]], redis.zrange(HEARTBEATS_KEY, 0, -1, withscores=True))
    return {name.decode(): at for name, at in beats}


def heartbeat_ages_s(redis: Redis) -> dict[str, float]:
    """Return the age of the last heartbeat of each worker that did not sign off."""
    seconds, microseconds = redis.time()
    return {name: max(0.0, seconds + microseconds / 1e6 - at) for name, at in heartbeats(redis).items()}


def is_alive(heartbeat_age_s: float | None) -> bool:
    """Return True if a worker with a heartbeat of this age counts as alive."""
    return heartbeat_age_s is not None and heartbeat_age_s < LOST_AFTER_S


def living_workers(redis: Redis) -> set[str]:
    """Return the names of the workers that are alive, on any machine."""
    return {name for name, age_s in heartbeat_ages_s(redis).items() if is_alive(age_s)}


def is_worker_alive(redis_url: str, machine: str | None = None) -> bool:
    """Return True if a worker of the machine is alive.

    Args:
        redis_url: REDIS_URL.
        machine: host name that the worker's name begins with; None is this machine.

    Raises:
        SettingsError: Redis does not answer.
    """
    machine = machine or socket.gethostname()
    try:
        with Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as redis:
            return any(name.startswith(f"{machine}-") for name in living_workers(redis))
    except RedisError as cause:
        raise SettingsError(f"Redis at {hide_password(redis_url)} does not answer: {cause}") from cause


class Watch:
    """Decides which workers are lost, by looking at their heartbeats again and again.

    The age of a heartbeat proves nothing: Redis may have been away, or the machine that looks may have been asleep. So
    a worker is lost only if its heartbeat stayed the same during LOST_AFTER_S of looks, each answered by Redis. After
    Redis was away, this time begins again.
    """

    LOOK_EVERY_S = 1.0

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._beats: dict[str, float | None] = {}
        self._silent_s: dict[str, float] = {}

    def look(self, beats: Mapping[str, float], names: Collection[str], now: float | None = None) -> set[str]:
        """Return the names of the workers that are lost.

        Args:
            beats: of all workers, as `heartbeats` returns them. A worker without a heartbeat counts as silent.
            names: of the workers to look at.
            now: monotonic seconds; None is this moment.
        """
        now = time.monotonic() if now is None else now
        # A late look says nothing about the time in which nobody looked.
        passed, self._looked_at = min(now - self._looked_at, 2 * self.LOOK_EVERY_S), now
        silent_s = {}
        for name in names:
            is_same = name in self._beats and self._beats[name] == beats.get(name)
            silent_s[name] = self._silent_s[name] + passed if is_same else 0.0
        self._beats, self._silent_s = {name: beats.get(name) for name in names}, silent_s
        return {name for name, seconds in silent_s.items() if seconds >= LOST_AFTER_S}

    def forget(self) -> None:
        """Begin again after Redis did not answer, because the workers could not reach it either."""
        self._beats, self._silent_s = {}, {}
