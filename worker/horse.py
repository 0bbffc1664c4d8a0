"""The process of one job: `python -m worker.horse <worker key> <job id> <queue> <execution id>`, started by the worker.

It is spawned and not forked, so each job starts in a process that has never used torch; and unlike RQ's own spawned
process it takes the address of Redis from the environment, so no password stands in the process list and every kind
of address works.
"""

import sys

from rq.executions import Execution
from rq.job import Job

from worker.logs import set_up_logging
from worker.process import CaptionWorker
from worker.queues import connect_patiently, queue
from worker.request_id import request_of
from worker.settings import Settings
from worker.telemetry import start_telemetry


def main(worker_key: str, job_id: str, queue_name: str, execution_id: str) -> None:
    """Run the job; the process ends in here, with 0 unless the job could not even be recorded as failed."""
    settings = Settings.from_env()
    set_up_logging(settings.log_format)
    start_telemetry("captioner-worker")
    redis = connect_patiently(settings.redis_url)
    home = queue(redis, queue_name)
    worker = CaptionWorker.find_by_key(worker_key, connection=redis, serializer=home.serializer)
    assert worker is not None, f"Redis does not know worker {worker_key}; it lost its data"
    job = Job.fetch(job_id, connection=redis, serializer=home.serializer)
    worker.execution = Execution.fetch(execution_id, job_id, connection=redis)
    with request_of(job.meta):
        worker.main_work_horse(job, home)


if __name__ == "__main__":
    main(*sys.argv[1:])
