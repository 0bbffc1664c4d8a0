"""Project, version, job or search that a request names; 404 for anything that does not exist."""

from flask import request
from werkzeug.exceptions import NotFound

from backend.admin.correction_search import CorrectionPage, Search, search_corrections
from backend.admin.job_records import STATES, JobRecord, find_job, recent_jobs
from backend.captioning.services import current_services
from model.errors import RequestError
from model.registry import ModelVersion

LARGEST_START = 2**53
"""More corrections than any project has; Redis takes no index of more than 64 bits."""


def need_project(project_id: int) -> None:
    """Raise NotFound for a project that never had a correction or a version."""
    services = current_services()
    if project_id not in services.feedback.known_projects() and services.captioners.registry.newest(project_id) is None:
        raise NotFound(f"there is no project {project_id} here; a project appears with its first correction")


def need_weights(project_id: int, name: str) -> None:
    """Raise NotFound if the weights of this version are not kept. Every project has the bundle's."""
    is_bundle = name == current_services().captioners.registry.base_version
    if is_bundle:
        return
    version = find_version(project_id, name)
    if version.pruned:
        raise NotFound(f"the weights of version {name} of project {project_id} were deleted to save space")
    if not version.published:
        raise NotFound(f"version {name} of project {project_id} was refused, so its weights were not kept")


def find_version(project_id: int, name: str) -> ModelVersion:
    """Return a version; raise NotFound if the project does not have it."""
    version = current_services().captioners.registry.find(project_id, name)
    if version is None:
        raise NotFound(f"project {project_id} has no version {name}")
    return version


def need_job(job_id: str) -> JobRecord:
    """Return a job; raise NotFound if Redis does not have it."""
    job = find_job(current_services().redis, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}, or its result is no longer kept")
    return job


def find_jobs() -> tuple[JobRecord, ...]:
    """Return the jobs in the request's `state`; all jobs without one."""
    state = request.args.get("state")
    if state and state not in STATES:
        raise NotFound(f"there is no job state {state!r}; the states are {', '.join(STATES)}")
    return recent_jobs(current_services().redis, state or None, count=100)


def find_corrections(project_id: int) -> CorrectionPage:
    """Return the corrections that match the request's arguments."""
    need_project(project_id)
    services, arguments = current_services(), request.args
    search = Search(
        name=arguments.get("name", ""),
        text=arguments.get("text", ""),
        annotator=_number("annotator"),
        version=arguments.get("version", ""),
        edited_only=arguments.get("edited") == "1",
    )
    start = min(max(0, _number("start") or 0), LARGEST_START)
    return search_corrections(services.feedback, services.captioners.registry, project_id, search, start)


def _number(name: str) -> int | None:
    """Return a number among the request's arguments; None if it is left out.

    Raises:
        RequestError: the argument is not a number.
    """
    text = request.args.get(name)
    try:
        return int(text) if text else None
    except ValueError as cause:
        raise RequestError(f"{name} must be a whole number, got {text!r}") from cause
