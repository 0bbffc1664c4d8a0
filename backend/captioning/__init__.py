"""Captions for tasks, by the version that serves a project."""
