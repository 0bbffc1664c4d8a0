"""The door by which RQ calls the check for quiet; queued jobs hold its name, so it stays."""

from worker.queue.trigger import retrain_if_idle

__all__ = ["retrain_if_idle"]
