"""Bring the inbox in line with Label Studio: store what webhooks missed, remove what is no longer there.

A webhook has one second and is never repeated, and some deletions send none at all (CONTRACT.md section 7).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.annotations import AnnotationReading, Submission, parse_annotation, with_proposal
from backend.label_studio import LabelStudioClient, Task
from backend.labeling import CaptionControl, parse_caption_controls
from model.errors import RequestError
from worker.corrections import Correction, CorrectionInbox
from worker.suggestions import Suggestion, SuggestionLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """What one pull changed, in corrections."""

    stored: int
    removed: int

    @property
    def changed(self) -> int:
        return self.stored + self.removed


def reconcile(
    client: LabelStudioClient, inbox: CorrectionInbox, suggestions: SuggestionLog, project_id: int
) -> Reconciliation:
    """Pull a project's annotations and change the inbox where it differs.

    Raises:
        LabelStudioError: they cannot be pulled; what was pulled before is stored.
        LabelConfigError: the project's labeling config has no caption.
    """
    # Looked at before the pull: what arrives meanwhile by webhook may be too new for the pages we read.
    before = {correction.annotation_id for correction in inbox.corrections(project_id)}
    controls = parse_caption_controls(client.project(project_id).label_config)
    stored, counted = 0, set()
    for task in client.annotated_tasks(project_id):
        for reading, annotation_id in _readings(task, project_id, controls):
            if reading.removed is None:
                counted.add(annotation_id)
            stored += sum(inbox.store(_beside_proposal(found, task, suggestions)) for found in reading.submissions)
    gone = [found for found in sorted(before - counted) if not _still_counts(client, found, project_id, controls)]
    done = Reconciliation(stored=stored, removed=inbox.remove(project_id, gone))
    logger.info("annotations pulled project=%s stored=%s removed=%s", project_id, done.stored, done.removed)
    return done


def _readings(
    task: Task, project_id: int, controls: Sequence[CaptionControl]
) -> Iterator[tuple[AnnotationReading, int]]:
    for annotation in task["annotations"]:
        try:
            yield parse_annotation(annotation, task, project_id, controls), int(annotation["id"])
        except RequestError as problem:
            logger.warning("annotation not read project=%s task=%s problem=%s", project_id, task["id"], problem)


def _still_counts(
    client: LabelStudioClient, annotation_id: int, project_id: int, controls: Sequence[CaptionControl]
) -> bool:
    """Ask for one annotation again: a page may have missed it, and removing it wrongly would lose a correction."""
    annotation = client.annotation(annotation_id)
    if annotation is None or annotation.get("project") != project_id:
        return False
    task = {"id": annotation["task"], "data": {control.image_field: "unread" for control in controls}}
    try:
        return parse_annotation(annotation, task, project_id, controls).removed is None
    except RequestError:
        return True


def _beside_proposal(submission: Submission, task: Task, log: SuggestionLog) -> Correction:
    mine = submission.correction
    known = log.find(mine.project_id, mine.task_id, mine.control, mine.image_ref)
    correction = with_proposal(submission, known or _stored_predictions(task, mine))
    return correction if correction.image_key else replace(correction, image_key=None)


def _stored_predictions(task: Task, correction: Correction) -> list[Suggestion]:
    """Return what Label Studio stored of our suggestions, the one the annotation names first; image keys are empty."""
    annotation = next(found for found in task["annotations"] if found["id"] == correction.annotation_id)
    named = annotation.get("parent_prediction")
    newest_first = sorted(task["predictions"], key=lambda found: (found["id"] == named, found["id"]), reverse=True)
    return [
        Suggestion(
            project_id=correction.project_id,
            task_id=correction.task_id,
            control=correction.control,
            image_ref=correction.image_ref,
            image_key="",
            caption=caption,
            model_version=str(prediction["model_version"] or ""),
            score=float(prediction["score"] or 0.0),
        )
        for prediction in newest_first
        if (caption := _caption_in(prediction["result"], correction.control))
    ]


def _caption_in(result: Sequence[Mapping[str, Any]], control: str) -> str:
    rows = [region["value"].get("text", []) for region in result if region.get("from_name") == control]
    texts = [text for row in rows for text in ([row] if isinstance(row, str) else row)]
    return "\n".join(texts).strip()
