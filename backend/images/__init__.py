"""Fetching the images of tasks and computing their features."""
