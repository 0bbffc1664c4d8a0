"""`python -m worker` (also `captioner worker`): run jobs until a signal ends the worker.

It needs nothing but the settings in the environment. It ends with 0 on SIGTERM or Ctrl-C; a job that does not end
within seconds is handed back to its queue. If Redis restarts or is away, the worker waits and goes on.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from model.errors import LayoutError, SettingsError, StoreError
from model.store import Store
from model.store_layout import note_store_layout
from worker.feedback.layout import open_layout
from worker.feedback.stored_features import tidy_features_beside
from worker.logs import set_up_logging
from worker.queue.heartbeats import beating
from worker.queue.job_state import QUEUES, queue
from worker.queue.lost_jobs import watch_beside
from worker.queue.rq_worker import CaptionWorker
from worker.queue.scheduled_jobs import enqueue_due_jobs, longest_delay_s
from worker.redis_client import connect_patiently
from worker.settings import Settings, hide_password

logger = logging.getLogger("worker")

NICENESS = 10
"""Lets a server on the same machine go first; a training that is alone there loses nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker; returns the exit status."""
    parser = argparse.ArgumentParser(prog="captioner worker", description="Run retrainings and Label Studio jobs.")
    parser.add_argument("--queues", nargs="+", choices=QUEUES, default=QUEUES, help="queues to serve, in this order")
    parser.add_argument("--burst", action="store_true", help="end when the queues are empty")
    arguments = parser.parse_args(argv)
    try:
        settings = Settings.from_env()
    except SettingsError as problem:
        print(f"captioner worker: {problem}", file=sys.stderr)
        return 2
    set_up_logging(settings.log_format)
    os.nice(NICENESS)
    try:
        with suppress(StopRequested):
            run_jobs(settings, arguments.queues, burst=arguments.burst)
    except (LayoutError, StoreError) as problem:
        print(f"captioner worker: {problem}", file=sys.stderr)
        return 2
    logger.info("worker ended")
    return 0


def run_jobs(settings: Settings, queue_names: Sequence[str], *, burst: bool = False) -> None:
    """Run jobs until a signal comes; while Redis is away, wait for it.

    Raises:
        StopRequested: a signal came while waiting for Redis.
        LayoutError: a newer version wrote what Redis or the model store holds.
        StoreError: MODEL_STORE is no place where files can be kept.
    """
    redis = connect_patiently(settings.redis_url)
    _note_store_layout(settings)
    watch_beside(settings)
    tidy_features_beside(settings)
    while True:
        _stop_by_exception()
        wait_for_redis(redis, settings.redis_url)
        open_layout(redis)
        worker = CaptionWorker.listening(settings, [queue(redis, name) for name in queue_names], redis, _new_name())
        names, address = ",".join(queue_names), hide_password(settings.redis_url)
        logger.info("worker ready name=%s queues=%s redis=%s", worker.name, names, address)
        try:
            with beating(settings.redis_url, worker.name, worker.drop_taken_job):
                enqueue_due_jobs(redis, longest_delay_s(settings))
                worker.work(burst=burst, logging_level="WARNING")
        except RedisError as problem:
            logger.warning("worker lost Redis name=%s problem=%s", worker.name, problem)
        if worker.is_stopping or burst:
            return


def wait_for_redis(redis: Redis, redis_url: str) -> None:
    """Return once Redis answers, however long that takes."""
    while True:
        try:
            redis.ping()
            return
        except RedisError as problem:
            logger.warning("Redis does not answer at %s, trying again: %s", hide_password(redis_url), problem)


def _note_store_layout(settings: Settings) -> None:
    store = Store(settings.model_store)
    try:
        note_store_layout(store)
    except StoreError as problem:  # each job that needs the store reports it, too
        logger.warning("layout of the model store not checked problem=%s", problem)


def _stop_by_exception() -> None:
    """Let a signal end the waiting between two RQ workers, which have handlers of their own."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise StopRequested

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


if __name__ == "__main__":
    sys.exit(main())
