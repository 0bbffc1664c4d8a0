"""The worker's jobs. Queued jobs hold these names, so they must not change."""

from typing import Any

from rq import Retry


def retrain(project_id: int, reason: str) -> dict[str, Any] | Retry:
    """RQ job: train the project's decoder on its corrections; see `worker.learning.training_run.retrain`."""
    from worker.learning import training_run

    return training_run.retrain(project_id, reason)


def roll_back_if_accepted_less(project_id: int) -> str | None:
    """RQ job: serve the earlier version again if it was accepted more often; see `worker.learning.rollback`."""
    from worker.learning import rollback

    return rollback.look_back(project_id)
