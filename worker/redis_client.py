"""Clients of Redis: a fast one that gives up, and a patient one that waits for a restart."""

from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry as Reconnect


def connect(redis_url: str) -> Redis:
    """Return a client that gives up fast: a webhook has one second, and a lost event is pulled later."""
    # Repeat once, because a pooled connection from before a restart of Redis fails on its first use.
    again = Reconnect(NoBackoff(), retries=1)
    return Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2, retry=again)


def connect_patiently(redis_url: str) -> Redis:
    """Return a client for jobs: it waits some 20 seconds for a restart of Redis before it raises."""
    again = Reconnect(ExponentialBackoff(base=0.1, cap=1.5), retries=18)
    return Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=30, retry=again)
