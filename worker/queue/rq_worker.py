"""Our RQ worker: takes jobs from Redis and starts one process for each.

It differs from RQ's SpawnWorker where that would not do:
- a job's process is told everything by environment and arguments, so no Redis password is in the process list;
- one thread per job, and memory that is freed is kept, which training and serving beside it both need;
- SIGTERM gives the running job a moment, then hands it back to its queue instead of failing it;
- a Redis that lost its data learns of this worker and of the next pull again; one that is away ends nothing (see
  `worker/__main__.py`), and never parts the worker from the job it runs;
- whether a worker is lost is not told by the age of RQ's heartbeats but by `worker/queue/heartbeats.py`, and what
  becomes of its job by `worker/queue/lost_jobs.py`; one that comes back finds its job taken and drops it;
- what repetition cannot mend, or a person stopped, is not repeated.
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
from rq import Queue, SpawnWorker
from rq.exceptions import AbandonedJobError, InvalidJobOperation
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_registration import register

import worker
from model.errors import LabelStudioError, StoreError
from worker.queue.failure_reason import STOPPED_BY_A_PERSON
from worker.queue.job_log import keep_as_long_as
from worker.queue.job_metrics import JobCounts, kind_of
from worker.queue.job_origin import TRACE_META
from worker.queue.lost_jobs import is_taken_back
from worker.queue.periodic_pull import schedule_pull
from worker.request_id import request_of
from worker.settings import Settings
from worker.telemetry import fail_span, flush_telemetry, span

logger = logging.getLogger(__name__)

WORTH_REPEATING = (OSError, RedisError, StoreError, LabelStudioError, AbandonedJobError)
"""Failures of a neighbour, who may be back; anything else would only fail again."""

GRACE_S = 5.0
"""What SIGTERM leaves a running job before it is handed back; containers are killed after 10 s."""

SCHEDULER_GRACE_S = 3.0

WORKER_TTL_S = 30
MAINTENANCE_EVERY_S = 30
"""How soon a dead scheduler is replaced and a lost pull is scheduled again."""
RUN_KEPT_S = 24 * 3600
"""RQ gives a job up by the clock when its entry among the running ones is this old: after a Redis that was away for a
minute that would be every running job."""

JOB_ENVIRONMENT = {
    # Two busy thread pools make each other slow; the server beside us must not notice a training.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Of the thousand products of other shapes that one training has, each would keep its code and its scratch memory.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # glibc gives big blocks back to the system at once and pays a page fault for each page of the next one.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * 2**20),
}
"""For each job's process, unless the operator set them."""


class CaptionWorker(SpawnWorker):
    """Runs jobs one after another, each in a process of its own."""

    max_connection_wait_time = 5.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.settings: Settings | None = None
        """None in a job's process, which RQ makes from what Redis knows."""
        self.is_stopping = False
        self._is_handing_back = False
        self._dropped_execution: str | None = None
        self.push_exc_handler(do_not_repeat_in_vain)  # type: ignore[no-untyped-call]

    @classmethod
    def listening(cls, settings: Settings, queues: list[Queue], redis: Redis, name: str) -> "CaptionWorker":
        """Return a worker that will take jobs from these queues, the first one first."""
        listening = cls(
            queues,
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            maintenance_interval=MAINTENANCE_EVERY_S,
        )
        listening.settings = settings
        return listening

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        if self.settings is not None:
            schedule_pull(self.connection, self.settings)

    def monitor_work_horse(self, job: Job, queue: Queue) -> None:
        started = time.monotonic()
        with request_of(job.meta):
            super().monitor_work_horse(job, queue)
            keep_as_long_as(job)
            # Here and not after `execute_job`: from there on a SIGTERM ends the loop at once.
            self._tell_end(job, queue, time.monotonic() - started)

    def _tell_end(self, job: Job, queue: Queue, seconds: float) -> None:
        status = _status(job)
        logger.info("job done queue=%s job=%s status=%s seconds=%.1f", queue.name, job.id, status, seconds)
        try:
            JobCounts(self.connection).job_ended(kind_of(job), _outcome(status), seconds)
        except RedisError as problem:
            logger.warning("job not counted job=%s problem=%s", job.id, problem)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        with span(f"job {kind_of(job)}", job.meta.get(TRACE_META), job=job.id, queue=queue.name):
            went_well = super().perform_job(job, queue)
            if not went_well:
                fail_span("the job failed")
        flush_telemetry()
        return went_well

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Start the process of one job, in a group of its own: Ctrl-C in our terminal must not reach it."""
        assert self.execution is not None
        command = [
            sys.executable,
            "-P",
            "-m",
            "worker.queue.job_process",
            self.key,
            job.id,
            queue.name,
            self.execution.id,
        ]
        environment = JOB_ENVIRONMENT | dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_source_folder(), os.environ.get("PYTHONPATH")]))
        self._horse_pid = os.posix_spawn(sys.executable, command, environment, setpgroup=0)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.is_stopping = True
        self.connection.set_retry(Reconnect(NoBackoff(), retries=1))  # no patience with a Redis that is away
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def stop_scheduler(self) -> None:
        """RQ would wait for as long as the scheduler waits for a Redis that is away; its locks expire by themselves."""
        process = self.scheduler._process if self.scheduler else None
        if process is not None and process.is_alive():
            process.terminate()
            process.join(timeout=SCHEDULER_GRACE_S)
            process.kill()
            process.join()

    def handle_warm_shutdown_request(self) -> None:
        timer = threading.Timer(GRACE_S, self._hand_back)
        timer.daemon = True
        timer.start()

    def _hand_back(self) -> None:
        if self.horse_pid:
            self._is_handing_back = True
            self.kill_horse()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Signal the job's process if there is one; RQ would ask for the group of process 0, which is our own."""
        process_id = self.horse_pid
        if process_id:
            with suppress(ProcessLookupError):
                os.killpg(process_id, sig)

    def drop_taken_job(self, redis: Redis) -> None:
        """End the job's process if the job was given to another worker while this one was out of reach.

        Asked beside the loop, which may wait for that process alone: after a SIGSTOP its timer can get lost.
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
            logger.warning("job dropped queue=%s job=%s reason='this worker was held for lost'", queue.name, job.id)
            return
        if self._stopped_job_id == job.id:
            # As failed and not as RQ's "stopped": what depends on a stopped job would wait for ever.
            self._stopped_job_id = None
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
        super().heartbeat(WORKER_TTL_S + 60, pipeline)  # the time that RQ asks for is that of a run
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
    """RQ exception handler: take the retries from a job that failed of itself."""
    if not issubclass(kind, WORTH_REPEATING):
        job.retries_left = 0
    return True


def _status(job: Job) -> str:
    try:
        return job.get_status().value
    except InvalidJobOperation:
        return "gone"


def _outcome(status: str) -> str:
    """Return the status of a job that came to its end; any other says that it will run again."""
    return status if status in {"finished", "failed", "stopped", "canceled", "gone"} else "repeated"


def _source_folder() -> str:
    """Where the packages lie, so that the job's process imports the same code from wherever we were started."""
    return str(Path(worker.__path__[0]).resolve().parent)
