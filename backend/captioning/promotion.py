"""Model versions as a person handles them: list them, let another one serve, go back.

Whenever another version serves, the suggestions that Label Studio already stores are written again, and the audit log
tells who chose it.
"""

from collections.abc import Iterator

from redis import RedisError

from model.bundle import bundle_version, load_bundle
from model.registry import ModelRegistry
from model.store import Store
from worker.audit import write_once
from worker.queue.backend_jobs import enqueue_refresh
from worker.redis_client import connect
from worker.settings import Settings


def open_registry(settings: Settings) -> ModelRegistry:
    """Open the versions in MODEL_STORE that build on CAPTION_BUNDLE; no weights are loaded.

    Raises:
        BundleError: there is no such bundle.
        StoreError: the store cannot be used.
    """
    return ModelRegistry(Store(settings.model_store), bundle_version(settings.caption_bundle))


def version_lines(registry: ModelRegistry, project_id: int) -> Iterator[str]:
    """Yield one line per version, the bundle first; the serving one is marked."""
    serving = registry.serving(project_id)
    yield f"{_mark(registry.base_version, serving)} {registry.base_version:16} the bundle every project starts with"
    for version in registry.versions(project_id):
        made = f"{version.created_at[:19].replace('T', ' ')} UTC from {version.parent}"
        learned = f"{len(version.corrections)} corrections"
        outcome = "published" if version.published else "refused"
        yield f"{_mark(version.name, serving)} {version.name:16} {made}, {learned}; {outcome}: {version.decision}"


def promote_version(settings: Settings, project_id: int, name: str, *, by: str) -> str:
    """Let a version serve the project from now on; return what to tell the person.

    Args:
        by: who chose it, as the audit log shall name them.

    Raises:
        VersionChoiceError: the version is unknown, was refused, or is made for another encoder.
    """
    registry = open_registry(settings)
    before = registry.serving(project_id)
    registry.promote(project_id, name, by=by, bundle=lambda: load_bundle(settings.caption_bundle))
    write_once(settings.redis_url, by, "version promoted", project_id, version=name, before=before)
    return f"{name} serves project {project_id}; {_refresh(settings, project_id, name)}"


def roll_back(settings: Settings, project_id: int, *, by: str) -> str:
    """Let the version serve that served before; return what to tell the person.

    Raises:
        VersionChoiceError: no other version ever served this project.
    """
    registry = open_registry(settings)
    before = registry.serving(project_id)
    name = registry.rollback(project_id, by=by)
    write_once(settings.redis_url, by, "version rolled back", project_id, version=name, before=before)
    return f"{name} serves project {project_id} again; {_refresh(settings, project_id, name)}"


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
