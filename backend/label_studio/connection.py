"""Finds our backend among the backends of a Label Studio project."""

from dataclasses import dataclass

from backend.label_studio.client import ConnectedBackend, LabelStudioClient, Project
from model.errors import CaptionerError
from model.registry import ModelRegistry
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A project and the backend in it that is ours."""

    project: Project
    ours: ConnectedBackend
    backends: tuple[ConnectedBackend, ...]
    """All backends of the project, in the order of connection. Label Studio asks only the first one for predictions."""


def find_connection(client: LabelStudioClient, settings: Settings, project: Project) -> Connection | None:
    """Return the backend that answered `/setup` with our version, else the first; None when none is connected."""
    backends = client.connected_backends(project.project_id)
    if not backends:
        return None
    serving = _serving_version(settings, project.project_id)
    ours = next((backend for backend in backends if backend.model_version == serving), backends[0])
    return Connection(project=project, ours=ours, backends=tuple(backends))


def _serving_version(settings: Settings, project_id: int) -> str | None:
    try:
        registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
        return registry.serving(project_id)
    except CaptionerError:
        return None  # the serving process reports the fault of the store
