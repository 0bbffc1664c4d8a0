"""Log lines of each job's process, kept in Redis beside the job.

captioner:job-log:<job>   list   the last lines of all runs of the job, oldest first
"""

import logging
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job
from rq.utils import as_text

from worker.logs import TextLine
from worker.queue.job_state import FAILURE_KEPT_S
from worker.redis_client import connect

KEPT_LINES = 500


def job_log(redis: Redis, job_id: str) -> list[str]:
    """Return the last log lines of a job, oldest first; none for a job that is no longer kept."""
    return [as_text(line) for line in redis.lrange(_key(job_id), 0, -1)]


def keep_as_long_as(job: Job) -> None:
    """Let the log expire with its job; called at the end of the job."""
    with suppress(RedisError):
        remaining_ms = job.connection.pttl(job.key)
        if remaining_ms > 0:
            job.connection.pexpire(_key(job.id), remaining_ms)


class JobLogHandler(logging.Handler):
    """Writes each log line of a job's process into Redis at once, so that nothing is lost if the process is killed.

    While Redis is away, lines are lost here; the worker's own log has them.
    """

    def __init__(self, redis_url: str, job_id: str) -> None:
        super().__init__()
        self.setFormatter(TextLine())
        self._redis = connect(redis_url)
        self._key = _key(job_id)

    def emit(self, record: logging.LogRecord) -> None:
        lines = self.format(record).splitlines()
        try:
            with self._redis.pipeline() as pipeline:
                pipeline.rpush(self._key, *lines)
                pipeline.ltrim(self._key, -KEPT_LINES, -1)
                pipeline.expire(self._key, FAILURE_KEPT_S)
                pipeline.execute()
        except RedisError:
            pass  # a warning would be logged here, too


def _key(job_id: str) -> str:
    return f"captioner:job-log:{job_id}"
