"""Pull of the annotations of connected projects, and the retrainings and rollbacks that follow from it."""

import logging
from collections import Counter
from collections.abc import Set
from http import HTTPStatus

from redis import Redis

from backend.label_studio.client import LabelStudioClient, Project
from backend.label_studio.connection import find_connection_again, proved_addresses
from backend.label_studio.http import LabelStudioRefusalError
from backend.protocol.label_config import has_captions
from backend.sync.pull import Reconciliation, reconcile
from model.errors import CaptionerError, LabelStudioError
from model.store import Store
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.left_projects import come_back, leave
from worker.feedback.project_data import begin_anew_if_new, note_title
from worker.feedback.waiting import read_waiting
from worker.queue.backend_jobs import schedule_look_alikes
from worker.queue.retraining import enqueue_rollback_check
from worker.queue.trigger import retrain_when_due
from worker.settings import Settings

logger = logging.getLogger(__name__)

REMOVED = "no model of the project in Label Studio leads to this captioner any more"
DELETED = "the project was deleted in Label Studio, or the API key may no longer see it"
RECENT_S = 3600
"""Seconds since a project's newest change. After that, pulls no longer compare its version with the earlier one."""


def pull_connected_projects(client: LabelStudioClient, redis: Redis, settings: Settings) -> dict[str, int]:
    """Pull every project whose backend has proved to be ours.

    A project that cannot be pulled does not stop the others, and is tried again the next time. Features are computed
    later, by the training that a change leads to. A job of its own rolls back a version that is accepted less, even
    while training is paused.

    Returns:
        how many projects are `changed`, `unchanged`, `failed` (could not be pulled) and `foreign` (have no captions, or
        no backend of ours).

    Raises:
        LabelStudioError: the projects could not be listed.
    """
    projects = list(client.projects())
    outcomes = Counter(_pull_if_ours(client, redis, settings, project) for project in projects)
    _leave_deleted(client, redis, {project.project_id for project in projects})
    counts = [outcomes[name] for name in ("changed", "unchanged", "failed", "foreign")]
    logger.info("projects pulled changed=%s unchanged=%s failed=%s foreign=%s", *counts)
    return dict(outcomes)


def pull_project(client: LabelStudioClient, redis: Redis, settings: Settings, project: Project) -> Reconciliation:
    """Pull one project and start a retraining if one is due.

    Raises:
        LabelStudioError: the annotations cannot be pulled; what was pulled before is stored.
        LabelConfigError: the project's labeling config has no caption.
    """
    begin_anew_if_new(redis, Store(settings.model_store), project.project_id, project.created, is_confirmed=True)
    note_title(redis, project.project_id, project.title)
    reconciliation = reconcile(client, redis, project)
    # This is needed without a change too: a retraining that claimed corrections may have failed.
    retrain_when_due(redis, settings, project.project_id)
    if reconciliation.changed:
        schedule_look_alikes(redis, settings, project.project_id)
    return reconciliation


def is_ours(client: LabelStudioClient, redis: Redis, project_id: int) -> bool:
    """Return True if a backend of the project has proved to be ours. If another has, the project has left.

    Raises:
        LabelStudioError: the project was ours, and its backend does not answer Label Studio now.
    """
    connection = find_connection_again(client, redis, project_id)
    if connection.ours is not None:
        come_back(redis, project_id)
        return True
    if project_id not in FeedbackStore(redis).known_projects():
        return False
    former = proved_addresses(redis, project_id)
    if connection.is_doubtful or any(backend.url in former for backend in connection.backends):
        raise LabelStudioError("a model of the project does not prove to be ours now, but it may be")
    if leave(redis, project_id, REMOVED):
        logger.warning("project has left project=%s reason=%s", project_id, REMOVED)
    return False


def _leave_deleted(client: LabelStudioClient, redis: Redis, listed: Set[int]) -> None:
    """Note which of the projects that have corrections are no longer in Label Studio."""
    for project_id in set(FeedbackStore(redis).projects()) - listed:
        try:
            client.project(project_id)
        except LabelStudioRefusalError as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND and leave(redis, project_id, DELETED):
                logger.warning("project has left project=%s reason=%s", project_id, DELETED)
        except LabelStudioError as problem:
            logger.warning("project not found project=%s problem=%s", project_id, problem)


def _pull_if_ours(client: LabelStudioClient, redis: Redis, settings: Settings, project: Project) -> str:
    try:
        if not (has_captions(project.label_config) and is_ours(client, redis, project.project_id)):
            return "foreign"
        reconciliation = pull_project(client, redis, settings, project)
        waiting = read_waiting(redis, project.project_id)
        if waiting.count and (waiting.quiet_s or 0.0) <= RECENT_S:  # annotators may have judged suggestions, too
            enqueue_rollback_check(redis, project.project_id)
    # JSON that no known Label Studio sends raises errors of other kinds. They must not stop the other projects either.
    except (CaptionerError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
        logger.warning("annotations not pulled project=%s problem=%r", project.project_id, problem)
        return "failed"
    return "changed" if reconciliation.changed else "unchanged"
