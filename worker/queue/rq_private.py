"""The only file that uses private members of RQ.

RQ has no public way to start a job's process differently, to take a job from a lost worker or to fail a job for it, so
this is done by hand; pyproject.toml keeps RQ below the next major version, which may change these members.
"""

from redis.client import Pipeline
from rq import Queue, SpawnWorker
from rq.job import Job


class OpenWorker(SpawnWorker):
    """RQ's worker, with public names for what `CaptionWorker` must change."""

    def remember_job_process(self, process_id: int) -> None:
        """Let RQ watch this process as the one of the current job."""
        self._horse_pid = process_id

    def take_stop_request(self, job: Job) -> bool:
        """Return True, once, if a person asked to stop this job; RQ then treats it as any other job."""
        if self._stopped_job_id != job.id:
            return False
        self._stopped_job_id = None
        return True


def enqueue_now(home: Queue, job: Job, pipeline: Pipeline) -> None:
    """Put a job into its queue, without a look at the jobs that it waited for."""
    home._enqueue_job(job, pipeline=pipeline, at_front=job.should_enqueue_at_front())


def enqueue_again(home: Queue, job: Job, pipeline: Pipeline) -> None:
    """Put a job at the front of its queue, without a look at the jobs that it waited for."""
    home._enqueue_job(job, pipeline=pipeline, at_front=True)


def record_failure(job: Job, reason: str, pipeline: Pipeline, worker_name: str) -> None:
    """Record a failure of a job as its worker would have done."""
    job._handle_failure(reason, pipeline, worker_name=worker_name)


def stop_channel(worker_name: str) -> str:
    """Return the channel on which a worker listens for requests to stop its job."""
    return f"rq:pubsub:{worker_name}"
