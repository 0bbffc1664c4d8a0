"""Stub until the workers' branch is merged."""

from redis import Redis


class RetrainingControl:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def state(self, project_id: int) -> str:
        return "on"

    def pause(self, project_id: int) -> None: ...

    def drain(self, project_id: int) -> None: ...

    def resume(self, project_id: int) -> None: ...


def stop_job(redis: Redis, job_id: str) -> None: ...


def cancel_job(redis: Redis, job_id: str) -> None: ...


def retry_job(redis: Redis, job_id: str) -> None: ...
