"""Reading of a webhook of Label Studio. These functions are pure; `CaptionBackend.fit` acts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.protocol.annotations import parse_annotation
from backend.protocol.json_fields import need, need_ids, need_objects
from backend.protocol.label_config import parse_caption_fields
from model.errors import LabelConfigError, RequestError
from worker.feedback.record import AnnotationState

START_TRAINING = "START_TRAINING"


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """The work that one webhook asks for."""

    project_id: int
    """0 only where the whole event is ignored."""
    title: str | None = None
    """Title of the project; None where the event does not say it."""
    annotations: tuple[AnnotationState, ...] = ()
    """Created or updated, as they are now."""
    deleted_annotations: tuple[int, ...] = ()
    deleted_tasks: tuple[int, ...] = ()
    wants_training: bool = False
    ignored: str | None = None
    """Why nothing, or not everything, is done."""


def parse_webhook(action: str, body: Mapping[str, Any]) -> WebhookEvent:
    """Read the body of a webhook.

    Raises:
        RequestError: a key that this action needs is missing or of a wrong type.
    """
    if action not in _ACTIONS:
        return WebhookEvent(project_id=0, ignored="unknown action")
    project = need(body, "project", dict)
    event = _ACTIONS[action](need(project, "id", int, "project."), body)
    title = project.get("title")
    return replace(event, title=title) if isinstance(title, str) else event


def _saved(project_id: int, body: Mapping[str, Any]) -> WebhookEvent:
    project = need(body, "project", dict)
    label_config = need(project, "label_config", str, "project.")
    pairs = _annotations_with_tasks(body)
    try:
        found = parse_caption_fields(label_config)
    except LabelConfigError as problem:
        return WebhookEvent(project_id=project_id, ignored=str(problem))
    states = tuple(
        parse_annotation(annotation, task, project_id, found.controls, path, not_captions=found.others)
        for annotation, task, path in pairs
    )
    problems = [state.ignored for state in states if state.ignored]
    return WebhookEvent(project_id=project_id, annotations=states, ignored="; ".join(problems) or None)


def _annotations_deleted(project_id: int, body: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(project_id=project_id, deleted_annotations=need_ids(body, "annotations"))


def _tasks_deleted(project_id: int, body: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(project_id=project_id, deleted_tasks=need_ids(body, "tasks"))


def _start_training(project_id: int, _body: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(project_id=project_id, wants_training=True)


def _nothing_to_do(project_id: int, _body: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(project_id=project_id, ignored="it holds no captions")


_ACTIONS = {
    "ANNOTATION_CREATED": _saved,
    "ANNOTATION_UPDATED": _saved,
    "ANNOTATIONS_CREATED": _saved,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASKS_DELETED": _tasks_deleted,
    "TASKS_CREATED": _nothing_to_do,
    # The labeling config comes with every event, so a changed one needs no memory here.
    "PROJECT_UPDATED": _nothing_to_do,
    START_TRAINING: _start_training,
}


def _annotations_with_tasks(body: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Return (annotation, its task, path); a single event holds objects, a bulk event lists."""
    if not isinstance(body.get("annotation"), list):
        return [(need(body, "annotation", dict), need(body, "task", dict), "annotation.")]
    annotations, tasks = need_objects(body, "annotation"), need_objects(body, "task")
    # They come in the same order; should that ever change, the ids still tell whose task is whose.
    by_id = dict(zip(need_ids(body, "task"), tasks, strict=True))
    paired = []
    for index, annotation in enumerate(annotations):
        path = f"annotation[{index}]."
        task_id = need(annotation, "task", int, path)
        if task_id not in by_id:
            raise RequestError(f"{path}task is {task_id}, which is not among the tasks")
        paired.append((annotation, by_id[task_id], path))
    return paired
