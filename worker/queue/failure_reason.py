"""Why a job failed, in words for an admin; the traceback is in its log."""

import re

from rq.job import Job, JobStatus
from rq.results import Result

STOPPED_BY_A_PERSON = "stopped by a person"
LOST_TWICE = "its worker was lost twice"

_OURS = re.compile(r"model\.errors\.\w+: ")
_KILLED = re.compile(r"Work-horse terminated unexpectedly; waitpid returned \S+(?: \(signal (\d+)\))?")
_TOO_LONG = re.compile(r"rq\.timeouts\.JobTimeoutException: .*\((\d+) seconds\)")


def cause(job: Job) -> str | None:
    """Return why a job failed; None for one that did not, or whose failure is no longer kept."""
    if job.get_status(refresh=False) != JobStatus.FAILED:
        return None
    result = job.latest_result()
    if result is not None and result.type == Result.Type.MAX_RETRIES_EXCEEDED:
        return "it was put off too often, because another one ran"
    return cause_in_words(result.exc_string if result else None)


def cause_in_words(told: str | None) -> str | None:
    """Return what RQ keeps of a failure, a traceback or a sentence of its own, in words."""
    lines = (told or "").strip().splitlines()
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
