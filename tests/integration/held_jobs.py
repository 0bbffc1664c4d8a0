"""Jobs that run until the test releases them by closing its end of a socket."""

import logging
import socket

from rq import get_current_job

from worker.queue.retraining import only_training
from worker.redis_client import connect_patiently
from worker.settings import Settings


def held(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.recv(1)
    return "released"


def held_training(project_id: int, port: int) -> bool:
    """Be the project's only training until released, as `worker.jobs.retrain` is."""
    job = get_current_job()
    assert job is not None
    with only_training(connect_patiently(Settings.from_env().redis_url), project_id, job.id) as is_ours:
        held(port)
    return is_ours


def talkative(lines: int) -> None:
    for number in range(lines):
        logging.getLogger(__name__).warning("line %s", number)
