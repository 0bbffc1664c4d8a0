"""Whether the worker of this machine (or container) is alive, as Redis sees it."""

import socket

from redis import Redis
from redis.exceptions import RedisError

from model.errors import SettingsError
from worker.settings import hide_password

REGISTERED = "rq:workers"
"""RQ's set of worker keys; the key itself expires some heartbeats after its worker's last one."""


def registered_workers(redis: Redis) -> set[str]:
    """Return the names of the workers that gave a heartbeat lately, on any machine."""
    keys = [key for key in redis.smembers(REGISTERED) if redis.exists(key)]
    return {(key.decode() if isinstance(key, bytes) else key).rpartition(":")[2] for key in keys}


def is_worker_alive(redis_url: str, machine: str | None = None) -> bool:
    """Tell whether a worker of the machine gave a heartbeat lately.

    Args:
        redis_url: REDIS_URL.
        machine: host name that the worker's name begins with; None is this machine.

    Raises:
        SettingsError: Redis does not answer, so nobody can know.
    """
    machine = machine or socket.gethostname()
    try:
        with Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as redis:
            return any(name.startswith(f"{machine}-") for name in registered_workers(redis))
    except RedisError as cause:
        raise SettingsError(f"Redis at {hide_password(redis_url)} does not answer: {cause}") from cause
