"""The doors by which RQ calls the worker's jobs; queued jobs hold their names."""

from typing import Any

from rq import Retry


def retrain(project_id: int, reason: str) -> dict[str, Any] | Retry:
    """RQ job: train the project's serving decoder on its corrections; see `worker.learning.training_run.retrain`."""
    from worker.learning import training_run

    return training_run.retrain(project_id, reason)
