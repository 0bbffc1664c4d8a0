import subprocess
import sys

import pytest
from redis import Redis
from rq.exceptions import AbandonedJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from model.errors import BundleError, LabelStudioError, StoreError, TrainingError
from worker.queue.rq_worker import do_not_repeat_in_vain


def retries_after(error: BaseException) -> int | None:
    job = Job.create("worker.jobs.retrain", connection=Redis(), serializer=JSONSerializer)
    job.retries_left = 3
    assert do_not_repeat_in_vain(job, type(error), error, None)
    return job.retries_left


@pytest.mark.parametrize(
    "error", [LabelStudioError("away"), StoreError("away"), ConnectionRefusedError(), AbandonedJobError()]
)
def test_a_failure_of_a_service_is_tried_again(error: BaseException) -> None:
    assert retries_after(error) == 3


@pytest.mark.parametrize(
    "error", [TrainingError("nothing"), BundleError("damaged"), KeyError("bug"), JobTimeoutException()]
)
def test_a_failure_that_would_only_repeat_is_not_tried_again(error: BaseException) -> None:
    assert retries_after(error) == 0


def test_a_stop_that_comes_when_the_jobs_process_has_just_ended_spares_the_worker() -> None:
    program = """
from redis import Redis
from worker.queue.rq_worker import CaptionWorker
worker = CaptionWorker([], name="a", connection=Redis(), prepare_for_work=False)
worker.kill_horse()
print("alive")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr
