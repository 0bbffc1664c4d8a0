"""Stub until the workers' branch is merged."""

from rq.job import Job


def cause(job: Job) -> str | None:
    result = job.latest_result()
    told = result.exc_string if result else None
    return told.strip().splitlines()[-1] if told and told.strip() else None
