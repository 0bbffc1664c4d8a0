"""Clients of Redis: one that gives up fast, and one that waits for a restart."""

from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry as Reconnect


def connect(redis_url: str) -> Redis:
    """Return a client that gives up fast: a webhook has one second, and a lost event is pulled later."""
    # One repetition at once: a pooled connection of before a Redis restart fails on its first use.
    again = Reconnect(NoBackoff(), retries=1)
    return Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2, retry=again)


def connect_patiently(redis_url: str) -> Redis:
    """Return a client for jobs: it bears a restart of Redis of some 20 seconds before it raises."""
    again = Reconnect(ExponentialBackoff(base=0.1, cap=1.5), retries=18)
    return Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=30, retry=again)
