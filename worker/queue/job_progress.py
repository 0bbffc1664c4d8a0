"""Progress of a running job, kept in its meta for the admin pages and for Label Studio's Start Training."""

import logging
import time

from redis.exceptions import RedisError
from rq.job import Job
from rq.serializers import JSONSerializer

from model.training.training_record import TrainingProgress
from worker.queue.job_origin import kept_origin
from worker.redis_client import connect

logger = logging.getLogger(__name__)

BY_HAND = "by-hand"
"""The job id of a function that was called without a job."""
EVERY_S = 0.5
MAX_POINTS = 120


class LossCurve:
    """The loss over a whole training in fewer than 120 points. All points are means over the same number of steps.

    When there are too many points, pairs are merged, and later points are means over twice as many steps.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        """Step and loss; the step is the last step of the mean."""
        self._stride = 1
        self._losses: list[float] = []

    def add(self, step: int, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) < self._stride:
            return
        self.points.append((step, sum(self._losses) / len(self._losses)))
        self._losses = []
        if len(self.points) == MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(last, (before + after) / 2) for (_, before), (last, after) in pairs]
            self._stride *= 2


class Progress:
    """Writes {"phase", "epoch", "epochs", "loss", "eta_s", "losses"} into a job's meta, twice a second at most.

    While Redis is away, progress is not written; no training waits or fails because of it.
    """

    def __init__(self, job: Job | None, redis_url: str) -> None:
        """Report on a job; without a job (`retrain` called by hand) nothing is written."""
        self.job_id = job.id if job else BY_HAND
        self._own = Job(self.job_id, connection=connect(redis_url), serializer=JSONSerializer) if job else None
        self._kept = kept_origin(job.meta) if job else {}
        self._written_at = -EVERY_S
        self._curve = LossCurve()
        self._last_step: dict[str, int | float] = {}

    def phase(self, name: str) -> None:
        """Write the phase that begins now: loading, training, searching (for bad corrections), evaluating, publishing
        or done."""
        self._write(name, {})

    def step(self, at: TrainingProgress) -> None:
        """Write the step that the training has reached; most calls write nothing."""
        if at.step == 1:  # a second training begins, without the bad corrections
            self._curve = LossCurve()
        self._curve.add(at.step, at.loss)
        self._last_step = {"epoch": at.epoch, "epochs": at.epochs, "loss": round(at.loss, 4)}
        if time.monotonic() - self._written_at >= EVERY_S:
            self._write("training", {"eta_s": round(at.eta_s, 1)})

    def _write(self, phase: str, more: dict[str, float]) -> None:
        if self._own is None:
            return
        self._written_at = time.monotonic()
        losses = [[step, round(loss, 4)] for step, loss in self._curve.points]
        self._own.meta = (
            self._kept | {"phase": phase, **self._last_step, **more} | ({"losses": losses} if losses else {})
        )
        try:
            self._own.save_meta()
        except RedisError as problem:
            logger.debug("progress not written job=%s problem=%s", self.job_id, problem)
