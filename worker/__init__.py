"""Learns from corrections: the inbox in Redis, the queues, and the retraining job."""
