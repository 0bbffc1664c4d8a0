"""The admin side: readiness, metrics, pages about projects and jobs, and the same as JSON."""
