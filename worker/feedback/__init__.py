"""Feedback: the captions and skips of annotators, beside our suggestions."""
