"""Metrics of captions, and pages that show them."""
