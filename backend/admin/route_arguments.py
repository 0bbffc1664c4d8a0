"""What an address or its arguments name: a project, a version, a job, a search; 404 for what there is not."""

from flask import request
from werkzeug.exceptions import NotFound

from backend.admin.correction_search import CorrectionPage, Search, search_corrections
from backend.admin.job_records import STATES, JobRecord, find_job, recent_jobs
from backend.captioning.services import current_services
from model.errors import RequestError
from model.registry import ModelVersion

FARTHEST = 2**53
"""No inbox is as long; Redis takes no place of more than 64 bits."""


def need_project(project_id: int) -> None:
    """Raise NotFound for a project that never had a correction nor a version."""
    services = current_services()
    if project_id not in services.inbox.projects() and services.captioners.registry.newest(project_id) is None:
        raise NotFound(f"there is no project {project_id} here; one appears with its first correction")


def need_weights(project_id: int, name: str) -> None:
    """Raise NotFound unless the weights of this version are kept; the bundle is one of every project's."""
    if name != current_services().captioners.registry.base_version and not find_version(project_id, name).published:
        raise NotFound(f"version {name} of project {project_id} was refused, so its weights were not kept")


def find_version(project_id: int, name: str) -> ModelVersion:
    """Return a version; raise NotFound for one that the project does not have."""
    found = current_services().captioners.registry.find(project_id, name)
    if found is None:
        raise NotFound(f"project {project_id} has no version {name}")
    return found


def need_job(job_id: str) -> JobRecord:
    """Return a job; raise NotFound for one that Redis does not know (any more)."""
    found = find_job(current_services().redis, job_id)
    if found is None:
        raise NotFound(f"there is no job {job_id}, or its result is no longer kept")
    return found


def find_jobs() -> tuple[JobRecord, ...]:
    """Return the jobs that the request's `state` asks for."""
    state = request.args.get("state")
    if state and state not in STATES:
        raise NotFound(f"no job is ever {state!r}; they are {', '.join(STATES)}")
    return recent_jobs(current_services().redis, state or None, count=100)


def find_corrections(project_id: int) -> CorrectionPage:
    """Return the corrections that the request's arguments ask for."""
    need_project(project_id)
    asked = request.args
    search = Search(
        text=asked.get("text", ""),
        annotator=_number("annotator"),
        version=asked.get("version", ""),
        edited_only=asked.get("edited") == "1",
    )
    start = min(max(0, _number("start") or 0), FARTHEST)
    services = current_services()
    return search_corrections(services.inbox, services.captioners.registry, project_id, search, start)


def _number(name: str) -> int | None:
    """Return what an argument of the request asks for; None where it is left out.

    Raises:
        RequestError: it is no number.
    """
    given = request.args.get(name)
    try:
        return int(given) if given else None
    except ValueError as cause:
        raise RequestError(f"{name} must be a whole number, got {given!r}") from cause
