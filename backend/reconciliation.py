"""Bring the inbox in line with Label Studio: store what webhooks missed, remove what is no longer there.

A webhook has one second and is never repeated, and some deletions send none at all (CONTRACT.md section 7).
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis

from backend.annotations import AnnotationReading, Submission, parse_annotation, with_proposal
from backend.label_studio.client import LabelStudioClient, Task
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


def reconcile(client: LabelStudioClient, redis: Redis, project_id: int) -> Reconciliation:
    """Pull a project's annotations and change the inbox where it differs.

    Of tasks that have not changed since the last pull only the time is asked, which is seven times cheaper.

    Raises:
        LabelStudioError: they cannot be pulled; what was pulled before is stored.
        LabelConfigError: the project's labeling config has no caption.
    """
    inbox, suggestions = CorrectionInbox(redis), SuggestionLog(redis)
    label_config = client.project(project_id).label_config
    controls = parse_caption_controls(label_config)
    # Looked at before the pull: what arrives meanwhile by webhook may be too new for what we read.
    before = inbox.corrections(project_id)
    memory = _PullMemory(redis, project_id, label_config)
    known = memory.read() if before else {}
    times = client.annotated_task_times(project_id)
    changed = {task_id for task_id, time in times.items() if known.get(task_id) != time}
    stored = 0
    readings: dict[int, AnnotationReading] = {}
    for task in client.tasks(project_id, sorted(changed)):
        for reading, annotation_id in _readings(task, project_id, controls):
            readings[annotation_id] = reading
            stored += sum(inbox.store(_beside_proposal(found, task, suggestions)) for found in reading.submissions)
    gone = [
        (found.annotation_id, found.control)
        for found in before
        if (found.task_id in changed or found.task_id not in times)
        and not _counts(readings.get(found.annotation_id), found.control)
        and not _still_counts(client, found.annotation_id, found.control, project_id, controls)
    ]
    done = Reconciliation(stored=stored, removed=sum(inbox.remove_control(project_id, *found) for found in gone))
    memory.write(times)
    logger.info(
        "annotations pulled project=%s tasks=%s changed=%s stored=%s removed=%s",
        project_id,
        len(times),
        len(changed),
        done.stored,
        done.removed,
    )
    return done


class _PullMemory:
    """When each task last changed, as the last complete pull saw it.

    captioner:pulled:<project>   hash   task id -> time; "read-as" -> what the annotations were read with
    """

    def __init__(self, redis: Redis, project_id: int, label_config: str) -> None:
        self._redis = redis
        self._key = f"captioner:pulled:{project_id}"
        # Another labeling config, or another way to read annotations (raise the number), sees old ones anew.
        self._read_as = hashlib.sha256(f"1 {label_config}".encode()).hexdigest()

    def read(self) -> dict[int, str]:
        times = {_text(task_id): _text(time) for task_id, time in self._redis.hgetall(self._key).items()}
        if times.pop("read-as", None) != self._read_as:
            return {}
        return {int(task_id): time for task_id, time in times.items()}

    def write(self, times: Mapping[int, str]) -> None:
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._key)
            pipeline.hset(self._key, mapping={"read-as": self._read_as, **{str(id_): at for id_, at in times.items()}})
            pipeline.execute()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _readings(
    task: Task, project_id: int, controls: Sequence[CaptionControl]
) -> Iterator[tuple[AnnotationReading, int]]:
    for annotation in task["annotations"]:
        try:
            yield parse_annotation(annotation, task, project_id, controls), int(annotation["id"])
        except RequestError as problem:
            logger.warning("annotation not read project=%s task=%s problem=%s", project_id, task["id"], problem)


def _counts(reading: AnnotationReading | None, control: str) -> bool:
    """Say whether what this control of the annotation corrected still counts."""
    return reading is not None and reading.removed is None and control not in reading.emptied


def _still_counts(
    client: LabelStudioClient, annotation_id: int, control: str, project_id: int, controls: Sequence[CaptionControl]
) -> bool:
    """Ask for one annotation again: a page may have missed it, and removing it wrongly would lose a correction."""
    annotation = client.annotation(annotation_id)
    if annotation is None or annotation.get("project") != project_id:
        return False
    task = {"id": annotation["task"], "data": {known.image_field: "unread" for known in controls}}
    try:
        return _counts(parse_annotation(annotation, task, project_id, controls), control)
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
