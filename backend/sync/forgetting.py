"""Removal of a project's captions, features and versions, or of one person's captions, by a person."""

from redis import Redis, RedisError

from backend.label_studio.client import LabelStudioClient
from backend.sync.connected_projects import is_ours
from model.errors import LabelStudioError, SettingsError
from model.store import Store
from worker.audit import AuditLog
from worker.feedback.layout import open_layout
from worker.feedback.left_projects import leave
from worker.feedback.project_data import forget_annotator, forget_project
from worker.redis_client import connect_patiently
from worker.settings import Settings, hide_password

FORGOTTEN = "a person removed what was kept of it"


def forget_by(settings: Settings, project_id: int, annotator: int | None, *, by: str) -> str:
    """Remove what is kept of a project, or one person's captions in it; return a sentence about what was removed.

    Args:
        settings: of Redis, the model store and Label Studio.
        project_id: Label Studio's.
        annotator: Label Studio's id of the person; None for everything of the project.
        by: name of who does it, for the audit log.

    Raises:
        SettingsError: the project is still connected, or Redis does not answer.
        StoreError: files cannot be removed; another call removes the rest.
    """
    try:
        with connect_patiently(settings.redis_url) as redis:
            open_layout(redis)
            if annotator is not None:
                count = forget_annotator(redis, Store(settings.model_store), project_id, annotator)
                outcome = f"removed {count} captions of person {annotator} from project {project_id}"
                learned = "Versions that learned from them stay; the next training does without them."
                AuditLog(redis).write(by, "captions of a person removed", project_id, captions=count)
                return f"{outcome}. {learned}"
            _refuse_if_connected(settings, redis, project_id)
            # Events and trainings that are under way must not bring anything back.
            leave(redis, project_id, FORGOTTEN)
            removed = forget_project(redis, Store(settings.model_store), project_id)
            leave(redis, project_id, FORGOTTEN)
            AuditLog(redis).write(by, "project forgotten", project_id, **vars(removed))
            return f"removed {removed} of project {project_id}"
    except RedisError as cause:
        raise SettingsError(
            f"no Redis answers at {hide_password(settings.redis_url)} ({cause}); start it, or set REDIS_URL"
        ) from cause


def _refuse_if_connected(settings: Settings, redis: Redis, project_id: int) -> None:
    client = LabelStudioClient.from_settings(settings)
    if client is None:
        return
    try:
        connected = is_ours(client, redis, project_id)
    except LabelStudioError:
        return  # it was deleted, or Label Studio is away
    if connected:
        raise SettingsError(
            f"project {project_id} is still connected, so the next pull would bring its captions back; remove the "
            "model in Label Studio (Settings > Model) or delete the project, then try again"
        )
