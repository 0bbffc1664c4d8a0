from itertools import pairwise

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from model.training.training_record import TrainingProgress
from worker.queue.job_progress import MAX_POINTS, LossCurve, Progress

NOBODY = "redis://127.0.0.1:1/0"


def test_a_redis_that_is_away_disturbs_no_training() -> None:
    job = Job("retrain-1-0-00000000", connection=Redis(port=1), serializer=JSONSerializer)
    progress = Progress(job, NOBODY)

    progress.phase("loading")
    progress.step(TrainingProgress(epoch=1, epochs=2, step=1, steps=2, loss=1.0, eta_s=1.0))

    assert progress.job_id == job.id


def test_without_a_job_there_is_nothing_to_write() -> None:
    progress = Progress(None, NOBODY)

    progress.phase("loading")

    assert progress.job_id == "by-hand"


@pytest.mark.parametrize("steps", [1, 64, 120, 121, 5000])
def test_the_curve_of_a_course_has_few_points_however_long_it_is(steps: int) -> None:
    curve = LossCurve()

    for step in range(1, steps + 1):
        curve.add(step, 1000 - step)

    assert min(steps, MAX_POINTS // 2) <= len(curve.points) < MAX_POINTS
    assert curve.points[-1][0] > steps * 0.98
    assert len({later[0] - earlier[0] for earlier, later in pairwise(curve.points)}) <= 1
    assert all(before[1] > after[1] for before, after in pairwise(curve.points))


def test_a_point_of_a_long_course_is_the_mean_of_its_steps() -> None:
    curve = LossCurve()

    for step in range(1, 241):
        curve.add(step, float(step % 2))

    assert {loss for _, loss in curve.points} == {0.5}
