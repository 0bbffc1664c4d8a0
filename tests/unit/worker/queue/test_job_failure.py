import pytest
import torch
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.timeouts import JobTimeoutException

from model.errors import StoreError, TrainingError
from worker.queue.job_failure import LOST_TWICE, STOPPED_BY_A_PERSON, cause_in_words, may_come_from_items

TRACEBACK = """Traceback (most recent call last):
  File "worker/learning/training_run.py", line 60, in retrain
    raise TrainingError(reason)
"""


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (STOPPED_BY_A_PERSON, "stopped by a person"),
        (f"{LOST_TWICE}: worker-1", "its worker was lost twice: worker-1"),
        (TRACEBACK + "model.errors.TrainingError: no correction can be used", "no correction can be used"),
        (TRACEBACK + "ValueError: math domain error\n\n", "ValueError: math domain error"),
        (
            "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9); ",
            "its process was killed by signal 9; often the machine had too little memory",
        ),
        (
            "Work-horse terminated unexpectedly; waitpid returned 256; ",
            "its process was killed; often the machine had too little memory",
        ),
        (
            TRACEBACK + "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value (225 seconds)",
            "it took longer than its 225 s",
        ),
        ("Moved to FailedJobRegistry, due to AbandonedJobError, at 2025-01-31", "its worker was lost"),
        ("Job was stuck in intermediate queue.", "its worker was lost"),
        ("  \n", None),
        (None, None),
    ],
)
def test_the_reason_of_a_failure_is_put_in_words(failure: str | None, words: str | None) -> None:
    assert cause_in_words(failure) == words


@pytest.mark.parametrize(
    "problem", [ValueError("odd"), RuntimeError("stack expects equal sizes"), TrainingError("the loss is no number")]
)
def test_an_ordinary_failure_may_come_from_items(problem: Exception) -> None:
    assert may_come_from_items(problem)


@pytest.mark.parametrize(
    "problem",
    [
        StoreError("away"),
        RedisConnectionError("away"),
        OSError("disk full"),
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        JobTimeoutException("225 seconds"),
    ],
)
def test_no_item_is_the_cause_when_memory_time_or_a_service_is_missing(problem: Exception) -> None:
    assert not may_come_from_items(problem)
