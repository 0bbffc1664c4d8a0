"""Model versions for people: list them, let another version serve, go back to the version before.

When another version serves, the predictions that Label Studio stores are refreshed, and the audit log records who
chose the version.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from redis import RedisError

from backend.captioning.memory_report import MemoryReport, read_memory_report
from model.errors import JobError, SettingsError
from model.registry import ModelRegistry
from model.runtime.serving_bundle import load_serving_bundle
from model.store import Store
from model.store_layout import check_store_layout
from worker.audit import AuditLog, write_once
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.layout import open_layout
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.retraining import enqueue_retraining
from worker.redis_client import connect, connect_patiently
from worker.settings import Settings, hide_password


def open_registry(settings: Settings) -> ModelRegistry:
    """Open the versions in MODEL_STORE that build on CAPTION_BUNDLE; no weights are loaded.

    Raises:
        BundleError: there is no such bundle.
        StoreError: the store cannot be used.
        LayoutError: a newer version wrote the store.
    """
    registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
    check_store_layout(Store(settings.model_store))
    return registry


def serving_memory(settings: Settings, registry: ModelRegistry, project_id: int) -> MemoryReport | None:
    """Return what the memory does beside the serving version; None while Redis does not answer."""
    with connect(settings.redis_url) as redis:
        return read_memory_report(redis, project_id, registry.serving(project_id))


def version_lines(registry: ModelRegistry, project_id: int, memory: MemoryReport | None = None) -> Iterator[str]:
    """Yield one line per version, the bundle first; the serving version is marked, with its memory if that is known."""
    serving = registry.serving(project_id)
    beside = {} if memory is None else {serving: f"; memory: {memory.standing}"}
    yield (
        f"{_mark(registry.base_version, serving)} {registry.base_version:16} the bundle every project starts with"
        f"{beside.get(registry.base_version, '')}"
    )
    for version in registry.versions(project_id):
        origin = f"{version.created_at[:19].replace('T', ' ')} UTC from {version.parent}"
        learned = f"{len(version.corrections)} corrections"
        outcome = "published" if version.published else "refused"
        line = f"{version.name:16} {origin}, {learned}; {outcome}: {version.decision}"
        yield f"{_mark(version.name, serving)} {line}{beside.get(version.name, '')}"


def promote_version(settings: Settings, project_id: int, name: str, *, by: str) -> str:
    """Let a version serve the project from now on; return a message for the person who chose it.

    Args:
        by: name of the person, for the audit log.

    Raises:
        VersionChoiceError: the version is unknown, was refused, or was made for another encoder.
    """
    registry = open_registry(settings)
    before = registry.serving(project_id)
    registry.promote(project_id, name, by=by, bundle=lambda: load_serving_bundle(settings.caption_bundle))
    write_once(settings.redis_url, by, "version promoted", project_id, version=name, before=before)
    return f"{name} serves project {project_id}; {_refresh(settings, project_id, name)}"


def roll_back(settings: Settings, project_id: int, *, by: str) -> str:
    """Let the version serve that served before; return a message for the person who chose it.

    Raises:
        VersionChoiceError: no other version has served this project.
    """
    registry = open_registry(settings)
    before = registry.serving(project_id)
    name = registry.rollback(project_id, by=by)
    write_once(settings.redis_url, by, "version rolled back", project_id, version=name, before=before)
    return f"{name} serves project {project_id} again; {_refresh(settings, project_id, name)}"


@dataclass(frozen=True, kw_only=True)
class RequestedTraining:
    """A training that a person asked for."""

    message: str
    job_id: str | None
    """None if it was refused."""


def request_trainings(settings: Settings, project_id: int | None, *, by: str) -> Iterator[RequestedTraining]:
    """Enqueue a training of a project, or of every project with corrections, one after the other.

    Args:
        project_id: Label Studio's; None for every project that has not left.
        by: name of the person, for the record of the training and the audit log.

    Raises:
        SettingsError: no project has corrections, this project has none, or Redis does not answer.
    """
    try:
        with connect_patiently(settings.redis_url) as redis:
            open_layout(redis)
            feedback = FeedbackStore(redis)
            if project_id is not None and project_id not in feedback.known_projects():
                raise SettingsError(f"project {project_id} has no corrections: check the number in its address")
            chosen = feedback.projects() if project_id is None else [project_id]
            if not chosen:
                raise SettingsError("no project has corrections yet: label tasks in Label Studio first")
            for project in chosen:
                try:
                    job_id = enqueue_retraining(redis, settings, project, f"requested by {by}")
                except JobError as problem:
                    yield RequestedTraining(message=f"project {project}: {problem}", job_id=None)
                    continue
                AuditLog(redis).write(by, "training requested", project, job=job_id)
                message = f"project {project}: a worker trains it (job {job_id}), if a correction or the bundle changed"
                yield RequestedTraining(message=message, job_id=job_id)
    except RedisError as cause:
        raise SettingsError(
            f"no Redis answers at {hide_password(settings.redis_url)} ({cause}); start it, or set REDIS_URL"
        ) from cause


def _refresh(settings: Settings, project_id: int, name: str) -> str:
    """Start a refresh of the stored suggestions; return in words whether one starts. The version serves either way."""
    try:
        with connect(settings.redis_url) as redis:
            job_id = enqueue_refresh(redis, settings, project_id, name)
    except (RedisError, OSError) as problem:
        return f"stored suggestions are not refreshed, because Redis does not answer: {problem}"
    if job_id is None:
        return "stored suggestions stay as they are (REFRESH_PREDICTIONS=false)"
    return "a worker refreshes the suggestions of tasks nobody has annotated"


def _mark(name: str, serving: str) -> str:
    return "*" if name == serving else " "
