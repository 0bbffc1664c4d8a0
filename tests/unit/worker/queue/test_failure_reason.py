import pytest

from worker.queue.failure_reason import LOST_TWICE, STOPPED_BY_A_PERSON, cause_in_words

TRACEBACK = """Traceback (most recent call last):
  File "worker/learning/training_run.py", line 60, in retrain
    raise TrainingError(reason)
"""


@pytest.mark.parametrize(
    ("told", "words"),
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
def test_a_failure_is_told_in_words(told: str | None, words: str | None) -> None:
    assert cause_in_words(told) == words
