"""The check for quiet. Queued jobs hold this name, so it must not change."""

from worker.queue.trigger import retrain_if_idle

__all__ = ["retrain_if_idle"]
