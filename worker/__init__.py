"""Learns from corrections: feedback in Redis, job queues, and the retraining of models."""
