"""How far a running job is, in its meta, for the admin and for whoever pressed Start Training."""

import logging
import time

from redis.exceptions import RedisError
from rq.job import Job
from rq.serializers import JSONSerializer

from model.training.record import TrainingProgress
from worker.origin import kept_origin
from worker.queues import connect

logger = logging.getLogger(__name__)

EVERY_S = 0.5


class Progress:
    """Writes {"phase", "epoch", "epochs", "loss", "eta_s"} into a job's meta, twice a second at most.

    It is for looking at: while Redis is away it is not written and no training waits or fails for it.
    """

    def __init__(self, job: Job | None, redis_url: str) -> None:
        """Report on a job; without one (`retrain` called by hand) nothing is written."""
        self.job_id = job.id if job else "by-hand"
        self._own = Job(self.job_id, connection=connect(redis_url), serializer=JSONSerializer) if job else None
        self._kept = kept_origin(job.meta) if job else {}
        self._written_at = -EVERY_S

    def phase(self, name: str) -> None:
        """Say what happens from now on: loading, training, evaluating, publishing or done."""
        self._write({"phase": name})

    def step(self, at: TrainingProgress) -> None:
        """Say where the fitting stands; most calls write nothing."""
        if time.monotonic() - self._written_at >= EVERY_S:
            told = {"epoch": at.epoch, "epochs": at.epochs, "loss": round(at.loss, 4), "eta_s": round(at.eta_s, 1)}
            self._write({"phase": "training", **told})

    def _write(self, meta: dict[str, str | float]) -> None:
        if self._own is None:
            return
        self._written_at = time.monotonic()
        self._own.meta = self._kept | meta
        try:
            self._own.save_meta()
        except RedisError as problem:
            logger.debug("progress not written job=%s problem=%s", self.job_id, problem)
