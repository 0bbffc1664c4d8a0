"""What a webhook, or a pulled annotation, says about our captions (CONTRACT.md section 7).

Foreign JSON stops here. Nothing is stored and nobody is asked: these functions are pure, `CaptionBackend.fit` acts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.fields import checked, need, need_ids, need_objects
from backend.labeling import CaptionControl, compact_image_ref, parse_caption_controls, read_image_ref
from model.errors import CorrectionError, LabelConfigError, RequestError, TaskError
from worker.corrections import Correction
from worker.suggestions import Suggestion

START_TRAINING = "START_TRAINING"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One caption that an annotator submitted; what we had proposed is looked up later."""

    correction: Correction
    origin: str | None
    """Label Studio's hint: `prediction`, `prediction-changed`, `manual`; None for what came by its API."""


@dataclass(frozen=True, kw_only=True)
class AnnotationReading:
    """What one annotation holds for us."""

    submissions: tuple[Submission, ...] = ()
    emptied: tuple[str, ...] = ()
    """Controls without a caption now, while others of the annotation have one."""
    removed: int | None = None
    """Its id, when whatever it corrected before no longer counts: skipped, or without any caption now."""
    ignored: str | None = None
    """Why a caption in it cannot be used, in words."""


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """What one webhook asks of us."""

    project_id: int
    """0 only where the whole event is ignored."""
    submissions: tuple[Submission, ...] = ()
    emptied_controls: tuple[tuple[int, str], ...] = ()
    """Annotation id and from_name of a control without a caption now, while others of the annotation have one."""
    removed_annotations: tuple[int, ...] = ()
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
    return _ACTIONS[action](need(project, "id", int, "project."), body)


def parse_annotation(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    project_id: int,
    controls: Sequence[CaptionControl],
    path: str = "annotation.",
) -> AnnotationReading:
    """Read one annotation of one task, from a webhook or pulled from Label Studio.

    Args:
        path: where the annotation stands in the request, for messages.

    Raises:
        RequestError: a key is missing or of a wrong type.
    """
    annotation_id = need(annotation, "id", int, path)
    if need(annotation, "was_cancelled", bool, path):
        return AnnotationReading(removed=annotation_id)
    regions = _text_regions(annotation, path)
    submissions, emptied, problems = [], [], []
    for control in controls:
        mine = [region for region in regions if region.from_name == control.from_name]
        try:
            if caption := _caption(mine):
                correction = _correction(annotation, task, project_id, control, caption, path)
                submissions.append(Submission(correction=correction, origin=mine[0].origin))
            else:
                emptied.append(control.from_name)
        except (TaskError, CorrectionError) as problem:
            problems.append(str(problem))
    strangers = {region.from_name for region in regions} - {control.from_name for control in controls}
    if strangers and not submissions:
        problems.append(f"the labeling config has no caption TextArea {', '.join(sorted(strangers))}")
    return AnnotationReading(
        submissions=tuple(submissions),
        emptied=tuple(emptied) if submissions else (),
        removed=None if submissions or problems else annotation_id,
        ignored="; ".join(problems) or None,
    )


def with_proposal(submission: Submission, suggestions: Sequence[Suggestion]) -> Correction:
    """Return the correction beside the caption we had proposed.

    Args:
        suggestions: what we suggested for this control, task and image, newest first.
    """
    final, proposed = submission.correction, None
    if submission.origin in {"prediction", None}:
        # Accepted: the annotator may have seen an older suggestion than the newest.
        proposed = next((known for known in suggestions if known.caption == final.caption), None)
    if proposed is None and suggestions:
        proposed = suggestions[0]
    if proposed is not None:
        return replace(
            final,
            proposed=proposed.caption,
            model_version=proposed.model_version,
            image_key=proposed.image_key,
        )
    # What we suggested is forgotten (Redis was lost); the hint is all that is left.
    return replace(final, proposed=final.caption) if submission.origin == "prediction" else final


def _saved(project_id: int, body: Mapping[str, Any]) -> WebhookEvent:
    project = need(body, "project", dict)
    label_config = need(project, "label_config", str, "project.")
    pairs = _annotations_with_tasks(body)
    try:
        controls = parse_caption_controls(label_config)
    except LabelConfigError as problem:
        return WebhookEvent(project_id=project_id, ignored=str(problem))
    readings = [parse_annotation(annotation, task, project_id, controls, path) for annotation, task, path in pairs]
    return WebhookEvent(
        project_id=project_id,
        submissions=tuple(found for reading in readings for found in reading.submissions),
        emptied_controls=tuple(
            (found.submissions[0].correction.annotation_id, control) for found in readings for control in found.emptied
        ),
        removed_annotations=tuple(reading.removed for reading in readings if reading.removed is not None),
        ignored="; ".join(reading.ignored for reading in readings if reading.ignored) or None,
    )


def _annotations_deleted(project_id: int, body: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(project_id=project_id, removed_annotations=need_ids(body, "annotations"))


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
    if len(annotations) != len(tasks):
        raise RequestError(f"task must hold as many items as annotation ({len(annotations)}), got {len(tasks)}")
    by_id = {task.get("id"): task for task in tasks}
    return [
        (annotation, by_id.get(annotation.get("task"), task), f"annotation[{index}].")
        for index, (annotation, task) in enumerate(zip(annotations, tasks, strict=True))
    ]


@dataclass(frozen=True, kw_only=True)
class _TextRegion:
    """The rows of text that one region of a TextArea holds."""

    from_name: str
    origin: str | None
    rows: tuple[str, ...]
    """Without surrounding space; none of them empty; at least one."""


def _text_regions(annotation: Mapping[str, Any], path: str) -> list[_TextRegion]:
    """Return the regions of text areas that hold any text."""
    regions = []
    for index, region in enumerate(need_objects(annotation, "result", path)):
        if region.get("type") != "textarea":
            continue
        place = f"{path}result[{index}]."
        rows = _rows(need(region, "value", dict, place), f"{place}value.")
        origin = region.get("origin")
        if rows:
            regions.append(
                _TextRegion(
                    from_name=need(region, "from_name", str, place),
                    origin=origin if isinstance(origin, str) else None,
                    rows=rows,
                )
            )
    return regions


def _rows(value: Mapping[str, Any], path: str) -> tuple[str, ...]:
    text = value.get("text", [])
    written = [text] if isinstance(text, str) else checked(text, list, f"{path}text")
    rows = [_clean(checked(row, str, f"{path}text[{index}]")) for index, row in enumerate(written)]
    return tuple(row for row in rows if row)


def _clean(text: str) -> str:
    """Strip the ends, and replace half surrogates: JSON may spell them, no file and no Redis can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def _caption(regions: Sequence[_TextRegion]) -> str:
    """Return all rows of one control, each on a line of its own: an area may take several submissions."""
    return "\n".join(row for region in regions for row in region.rows)


def _correction(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    project_id: int,
    control: CaptionControl,
    caption: str,
    path: str,
) -> Correction:
    lead_time = annotation.get("lead_time")
    annotation_id = need(annotation, "id", int, path)
    return Correction(
        project_id=project_id,
        task_id=need(task, "id", int, "task."),
        annotation_id=annotation_id,
        annotation_uid=str(annotation.get("unique_id") or annotation_id),
        control=control.from_name,
        image_ref=compact_image_ref(read_image_ref(need(task, "data", dict, "task."), control)),
        image_key=None,
        proposed=None,
        caption=caption,
        model_version=None,
        annotator=_annotator(annotation.get("completed_by")),
        lead_time_s=float(lead_time) if isinstance(lead_time, int | float) else None,
        ground_truth=annotation.get("ground_truth") is True,
        updated_at=need(annotation, "updated_at", str, path),
    )


def _annotator(completed_by: Any) -> int | None:
    """Return the user's id; some replies of Label Studio hold the whole user."""
    found = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return found if isinstance(found, int) else None
