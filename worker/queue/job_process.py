"""The process of one job, started by the worker.

    python -m worker.queue.job_process <worker key> <job id> <queue> <execution id>

The process is spawned and not forked, so it has never used torch before. It reads the address of Redis from the
environment, so no password is in the process list and every kind of address works.
It ends when its worker ends, because another worker then does the job.
"""

import logging
import os
import sys
import threading

from rq.executions import Execution

from worker.logs import set_up_logging
from worker.queue.job_log import JobLogHandler
from worker.queue.job_state import queue
from worker.queue.our_jobs import OurJob
from worker.queue.rq_worker import CaptionWorker
from worker.redis_client import connect_patiently
from worker.request_id import request_of
from worker.settings import Settings
from worker.telemetry import start_telemetry


def main(worker_key: str, job_id: str, queue_name: str, execution_id: str) -> None:
    """Run the job and end the process: with 0, unless a failure of the job could not be recorded."""
    settings = Settings.from_env()
    set_up_logging(settings.log_format)
    start_telemetry("captioner-worker")
    logging.getLogger().addHandler(JobLogHandler(settings.redis_url, job_id))
    redis = connect_patiently(settings.redis_url)
    home = queue(redis, queue_name)
    worker = CaptionWorker.find_by_key(worker_key, connection=redis, serializer=home.serializer)
    assert worker is not None, f"Redis does not know worker {worker_key}; it has lost its data"
    end_with(worker.pid)
    job = OurJob.fetch(job_id, connection=redis, serializer=home.serializer)
    worker.execution = Execution.fetch(execution_id, job_id, connection=redis)
    with request_of(job.meta):
        worker.main_work_horse(job, home)


def end_with(worker_pid: int | None) -> None:
    """End this process within a second after the worker that started it, by a thread beside the job."""

    def look() -> None:
        pause = threading.Event()
        while os.getppid() == worker_pid:
            pause.wait(1.0)
        os._exit(1)

    threading.Thread(target=look, name="end-with-worker", daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
