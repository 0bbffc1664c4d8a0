"""Captions files: those that people and other programs have, and those that we write."""
