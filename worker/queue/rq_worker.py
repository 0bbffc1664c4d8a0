"""Our RQ worker: takes jobs from Redis and starts a process for each.

It differs from RQ's SpawnWorker where RQ's behaviour does not fit:
- It runs our own functions by name and no others (`worker/queue/our_jobs.py`).
- A job's process gets everything by environment and arguments, so no Redis password is in the process list.
- A job uses one thread and keeps freed memory, which a training and the server beside it both need.
- On SIGTERM the running job gets a moment to end, then it is handed back to its queue and does not fail.
- If Redis lost its data, the worker and the next pull are registered again. If Redis is away, nothing ends (see
  `worker/__main__.py`), and the worker keeps the job that it runs.
- `worker/queue/heartbeats.py` and not the age of RQ's heartbeats tells if a worker is lost, and
  `worker/queue/lost_jobs.py` decides what happens to its job. A worker that comes back drops a job that was taken.
- A job is not repeated if repetition cannot help or if a person stopped it.
"""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError
from redis.retry import Retry as Reconnect
from rq import Queue
from rq.exceptions import AbandonedJobError, InvalidJobOperation
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_registration import register

import worker
from model.errors import LabelStudioError, StoreError
from worker.queue.job_failure import STOPPED_BY_A_PERSON
from worker.queue.job_log import keep_as_long_as
from worker.queue.job_metrics import JobCounts, kind_of
from worker.queue.job_origin import TRACE_META
from worker.queue.lost_jobs import is_taken_back
from worker.queue.our_jobs import OurJob
from worker.queue.periodic_pull import schedule_pull
from worker.queue.rq_private import OpenWorker
from worker.request_id import request_of
from worker.settings import Settings
from worker.telemetry import fail_span, flush_telemetry, span

logger = logging.getLogger(__name__)

WORTH_REPEATING = (OSError, RedisError, StoreError, LabelStudioError, AbandonedJobError)
"""Failures of Redis, the store or Label Studio, which may be back soon; other failures would only repeat."""

GRACE_S = 5.0
"""Time that SIGTERM leaves a running job before it is handed back; containers are killed after 10 s."""

WORKER_TTL_S = 30
MAINTENANCE_EVERY_S = 30
"""A lost pull is scheduled again within this time."""
RUN_KEPT_S = 24 * 3600
"""RQ gives up a running job when its entry is older than this. RQ's own limit is so short that Redis being away for a
minute would end every running job."""

JOB_ENVIRONMENT = {
    # Two busy thread pools make each other slow; a training must not slow down the server beside it.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A training multiplies matrices of a thousand shapes; each would keep its code and its scratch memory.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # glibc returns big blocks to the system at once, and each page of the next block then costs a page fault.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * 2**20),
}
"""Defaults for the process of each job; the operator's own values win."""


class CaptionWorker(OpenWorker):
    """Runs jobs one after another, each in a process of its own."""

    job_class = OurJob
    job_module = "worker.queue.job_process"
    """Program of the process of a job."""
    max_connection_wait_time = 5.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.settings: Settings | None = None
        """None in a job's process, where RQ makes this object from Redis' data."""
        self.is_stopping = False
        self._maintenance_due = 0.0
        self._is_handing_back = False
        self._dropped_execution: str | None = None
        self.push_exc_handler(do_not_repeat_in_vain)  # type: ignore[no-untyped-call]

    @classmethod
    def listening(cls, settings: Settings, queues: list[Queue], redis: Redis, name: str) -> "CaptionWorker":
        """Return a worker that will take jobs from these queues, in this order."""
        worker = cls(
            queues,
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            maintenance_interval=MAINTENANCE_EVERY_S,
        )
        worker.settings = settings
        return worker

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """True every MAINTENANCE_EVERY_S, by a clock that nobody sets; RQ's own may be set back by years."""
        return time.monotonic() >= self._maintenance_due

    def run_maintenance_tasks(self) -> None:
        self._maintenance_due = time.monotonic() + MAINTENANCE_EVERY_S
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        if self.settings is not None:
            schedule_pull(self.connection, self.settings)

    def monitor_work_horse(self, job: Job, queue: Queue) -> None:
        started = time.monotonic()
        with request_of(job.meta):
            super().monitor_work_horse(job, queue)
            keep_as_long_as(job)
            # Here and not after `execute_job`, because from there on a SIGTERM ends the loop at once.
            self._log_end(job, queue, time.monotonic() - started)

    def _log_end(self, job: Job, queue: Queue, seconds: float) -> None:
        status = _status(job)
        logger.info("job done queue=%s job=%s status=%s seconds=%.1f", queue.name, job.id, status, seconds)
        try:
            JobCounts(self.connection).job_ended(kind_of(job), _outcome(status), seconds)
        except RedisError as problem:
            logger.warning("job not counted job=%s problem=%s", job.id, problem)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        with span(f"job {kind_of(job)}", job.meta.get(TRACE_META), job=job.id, queue=queue.name):
            succeeded = super().perform_job(job, queue)
            if not succeeded:
                fail_span("the job failed")
        flush_telemetry()
        return succeeded

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Start the process of a job, in a group of its own: Ctrl-C in our terminal must not reach it."""
        assert self.execution is not None
        program = [sys.executable, "-P", "-m", self.job_module]
        command = [*program, self.key, job.id, queue.name, self.execution.id]
        environment = JOB_ENVIRONMENT | dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_source_folder(), os.environ.get("PYTHONPATH")]))
        self.remember_job_process(os.posix_spawn(sys.executable, command, environment, setpgroup=0))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.is_stopping = True
        self.connection.set_retry(Reconnect(NoBackoff(), retries=1))  # no patience with a Redis that is away
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def handle_warm_shutdown_request(self) -> None:
        timer = threading.Timer(GRACE_S, self._hand_back)
        timer.daemon = True
        timer.start()

    def _hand_back(self) -> None:
        if self.horse_pid:
            self._is_handing_back = True
            self.kill_horse()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Signal the job's process if there is one; without one RQ would signal our own process group."""
        process_id = self.horse_pid
        if process_id:
            with suppress(ProcessLookupError):
                os.killpg(process_id, sig)

    def drop_taken_job(self, redis: Redis) -> None:
        """End the job's process if the job was given to another worker while this one was out of reach.

        The heartbeat's thread calls this, because the loop may wait for that process without end: its timer can get
        lost after a SIGSTOP.
        """
        execution = self.execution
        if self.horse_pid and execution is not None and is_taken_back(redis, execution.id):
            self._dropped_execution = execution.id
            self.kill_horse()

    def get_heartbeat_ttl(self, job: Job) -> int:
        return RUN_KEPT_S

    def maintain_heartbeats(self, job: Job) -> None:
        try:
            super().maintain_heartbeats(job)
        except RedisError as problem:
            logger.warning("heartbeat not written job=%s problem=%s", job.id, problem)

    def set_current_job_working_time(self, current_job_working_time: float, pipeline: Pipeline | None = None) -> None:
        try:
            super().set_current_job_working_time(current_job_working_time, pipeline)
        except RedisError as problem:
            logger.debug("working time not written name=%s problem=%s", self.name, problem)

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        if self.execution is not None and self.execution.id == self._dropped_execution:
            self.set_current_job_id(None)
            logger.warning("job dropped queue=%s job=%s reason='this worker was taken for lost'", queue.name, job.id)
            return
        if self.take_stop_request(job):
            # The job fails and does not become RQ's "stopped", because jobs that depend on it would wait for ever.
            job.retries_left, exc_string = 0, STOPPED_BY_A_PERSON
        if not self._is_handing_back:
            super().handle_job_failure(job, queue, started_job_registry, exc_string)
            return
        retries, job.retries_left = job.retries_left, 0
        super().handle_job_failure(job, queue, started_job_registry, exc_string)
        job.retries_left = retries
        job.requeue(at_front=True)
        logger.info("job handed back queue=%s job=%s", queue.name, job.id)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        super().heartbeat(WORKER_TTL_S + 60, pipeline)  # RQ would use RUN_KEPT_S
        if pipeline is None and self.birth_date is not None and not self.is_horse:
            self.connection.hset(self.key, mapping=self.serialize())
            register(self)

    def teardown(self) -> None:
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as problem:
            logger.warning("worker not signed off name=%s problem=%s", self.name, problem)
            if self.pubsub_thread is not None:
                self.pubsub_thread.stop()


def do_not_repeat_in_vain(
    job: Job, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> bool:
    """RQ exception handler: remove the retries of a job whose failure would only repeat."""
    if not issubclass(kind, WORTH_REPEATING):
        job.retries_left = 0
    return True


def _status(job: Job) -> str:
    try:
        return job.get_status().value
    except InvalidJobOperation:
        return "gone"


def _outcome(status: str) -> str:
    """Return the status of a job that has ended; any other status means that it will run again."""
    return status if status in {"finished", "failed", "stopped", "canceled", "gone"} else "repeated"


def _source_folder() -> str:
    """Return the folder of the packages, so that the job's process imports the same code wherever we were started."""
    return str(Path(worker.__path__[0]).resolve().parent)
