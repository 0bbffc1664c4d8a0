"""Failures of jobs: the reason in words for an admin, and whether the items of a job can be the cause.

The traceback is in the job's log.
"""

import re

from redis.exceptions import RedisError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.timeouts import BaseTimeoutException

from model.errors import CaptionerError, TrainingError

STOPPED_BY_A_PERSON = "stopped by a person"
LOST_TWICE = "its worker was lost twice"

_OURS = re.compile(r"model\.errors\.\w+: ")
_KILLED = re.compile(r"Work-horse terminated unexpectedly; waitpid returned \S+(?: \(signal (\d+)\))?")
_TOO_LONG = re.compile(r"rq\.timeouts\.JobTimeoutException: .*\((\d+) seconds\)")


def cause(job: Job) -> str | None:
    """Return the reason why a job failed; None if it did not fail, or if its failure is no longer kept."""
    if job.get_status(refresh=False) != JobStatus.FAILED:
        return None
    result = job.latest_result()
    if result is not None and result.type == Result.Type.MAX_RETRIES_EXCEEDED:
        return "it was postponed too often, because another retraining was running"
    return cause_in_words(result.exc_string if result else None)


def cause_in_words(failure: str | None) -> str | None:
    """Return in words what RQ keeps of a failure: a traceback, or a sentence of RQ's own."""
    lines = (failure or "").strip().splitlines()
    if not lines:
        return None
    last = lines[-1].strip()
    if killed := _KILLED.match(last):
        by = f" by signal {killed[1]}" if killed[1] else ""
        return f"its process was killed{by}; often the machine had too little memory"
    if too_long := _TOO_LONG.match(last):
        return f"it took longer than its {too_long[1]} s"
    if "AbandonedJobError" in last or last == "Job was stuck in intermediate queue.":
        return "its worker was lost"
    return _OURS.sub("", last, count=1)


def may_come_from_items(problem: Exception) -> bool:
    """Return True if certain items can be the cause of a failure, such as corrections of a training.

    They are not the cause if memory or time ran out, or if Redis, the store or Label Studio did not answer.
    """
    if isinstance(problem, TrainingError):
        return True
    if isinstance(problem, CaptionerError | RedisError | OSError | MemoryError | BaseTimeoutException):
        return False
    # Compared by name, because importing torch takes 2 s. On a CPU the allocator raises a RuntimeError.
    return type(problem).__name__ != "OutOfMemoryError" and "allocate memory" not in str(problem)
