from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from model.training.record import TrainingProgress
from worker.progress import Progress

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
