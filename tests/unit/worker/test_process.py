import pytest
from redis import Redis
from rq.exceptions import AbandonedJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from model.errors import BundleError, LabelStudioError, StoreError, TrainingError
from worker.process import do_not_repeat_in_vain


def retries_after(error: BaseException) -> int | None:
    job = Job.create("worker.jobs.retrain", connection=Redis(), serializer=JSONSerializer)
    job.retries_left = 3
    assert do_not_repeat_in_vain(job, type(error), error, None)
    return job.retries_left


@pytest.mark.parametrize(
    "error", [LabelStudioError("away"), StoreError("away"), ConnectionRefusedError(), AbandonedJobError()]
)
def test_a_failure_of_a_neighbour_is_tried_again(error: BaseException) -> None:
    assert retries_after(error) == 3


@pytest.mark.parametrize(
    "error", [TrainingError("nothing"), BundleError("damaged"), KeyError("bug"), JobTimeoutException()]
)
def test_what_would_only_fail_again_is_not_tried_again(error: BaseException) -> None:
    assert retries_after(error) == 0
