"""Stub until the workers' branch is merged."""

from redis import Redis


def job_log(redis: Redis, job_id: str) -> list[str]:
    return []
