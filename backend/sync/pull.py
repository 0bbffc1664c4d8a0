"""Bring inbox and ledger in line with Label Studio: store what webhooks missed, remove what is no longer there.

A webhook has one second and is never repeated, and some deletions send none at all.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis

from backend.label_studio.client import LabelStudioClient, Project, Task
from backend.protocol.annotations import AnnotationReading, Submission, parse_annotation, with_proposal
from backend.protocol.label_config import CaptionControl, parse_caption_controls
from model.errors import RequestError
from worker.feedback.corrections import Correction, CorrectionInbox
from worker.feedback.ledger_records import LedgerRecords, Skip, record_skip, record_submission
from worker.feedback.suggestions import Suggestion, SuggestionLog
from worker.request_id import current_request_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """What one pull changed, in corrections; the ledger is no reason to train."""

    stored: int
    removed: int

    @property
    def changed(self) -> int:
        return self.stored + self.removed


def reconcile(client: LabelStudioClient, redis: Redis, project: Project) -> Reconciliation:
    """Pull a project's annotations and change inbox and ledger where they differ.

    Of tasks that have not changed since the last pull only the time is asked, which is seven times cheaper.

    Raises:
        LabelStudioError: they cannot be pulled; what was pulled before is stored.
        LabelConfigError: the project's labeling config has no caption.
    """
    project_id = project.project_id
    inbox, ledger, suggestions = CorrectionInbox(redis), LedgerRecords(redis), SuggestionLog(redis)
    controls = parse_caption_controls(project.label_config)
    # Looked at before the pull: what arrives meanwhile by webhook may be too new for what we read.
    before, recorded = inbox.corrections(project_id), ledger.places(project_id)
    memory = _PullMemory(redis, project)
    known = memory.read() if before and recorded else {}
    times = client.annotated_task_times(project_id) | client.skipped_task_times(project_id)
    changed = {task_id for task_id, time in times.items() if known.get(task_id) != time}
    readings = _Readings(client, project_id, controls)
    stored = sum(
        _store(reading, task, inbox, ledger, suggestions)
        for task in client.tasks(project_id, sorted(changed))
        for reading in readings.add(task)
    )

    def may_be_gone(task_id: int) -> bool:
        return task_id in changed or task_id not in times

    gone = [
        found
        for found in before
        if may_be_gone(found.task_id) and not readings.holds(found.annotation_id, found.control, _counts)
    ]
    unrecorded = [
        (annotation_id, control)
        for task_id, annotation_id, control in recorded
        if may_be_gone(task_id) and not readings.holds(annotation_id, control, _is_recorded)
    ]
    removed = sum(
        inbox.remove_control(project_id, found.annotation_id, found.control, found.updated_at) for found in gone
    )
    done = Reconciliation(stored=stored, removed=removed)
    ledger.remove_controls(project_id, unrecorded)
    memory.write(times)
    # Most pulls by the clock find nothing.
    logger.log(
        logging.INFO if done.changed else logging.DEBUG,
        "annotations pulled project=%s tasks=%s changed=%s stored=%s removed=%s",
        project_id,
        len(times),
        len(changed),
        done.stored,
        done.removed,
    )
    return done


def _store(
    reading: AnnotationReading, task: Task, inbox: CorrectionInbox, ledger: LedgerRecords, log: SuggestionLog
) -> int:
    """Store what an annotation holds; returns how many corrections were news."""
    stored = 0
    for submission in reading.submissions:
        correction, suggested = _beside_proposal(submission, task, log)
        stored += inbox.store(replace(correction, request_id=current_request_id()))
        ledger.store(record_submission(correction, suggested))
    for skip in reading.skips:
        ledger.store(record_skip(skip, _remembered(skip, log) or _stored_predictions(task, skip)))
    return stored


class _PullMemory:
    """When each task last changed, as the last complete pull saw it.

    captioner:pulled:<project>   hash   task id -> time; "read-as" -> what the annotations were read with
    """

    def __init__(self, redis: Redis, project: Project) -> None:
        self._redis = redis
        self._key = f"captioner:pulled:{project.project_id}"
        # Another labeling config, or another way to read annotations (raise the number), sees old ones anew.
        self._read_as = hashlib.sha256(f"2 {project.label_config}".encode()).hexdigest()

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


class _Readings:
    """What the annotations of a project hold, as the pages told it."""

    def __init__(self, client: LabelStudioClient, project_id: int, controls: Sequence[CaptionControl]) -> None:
        self._client = client
        self._project_id = project_id
        self._controls = controls
        self._told: dict[int, AnnotationReading] = {}
        self._asked: dict[int, AnnotationReading | None] = {}

    def add(self, task: Task) -> Iterator[AnnotationReading]:
        """Read the annotations of a task; one that cannot be read is logged and left out."""
        for annotation in task["annotations"]:
            try:
                reading = parse_annotation(annotation, task, self._project_id, self._controls)
            except RequestError as problem:
                logger.warning("annotation ignored project=%s task=%s reason=%s", self._project_id, task["id"], problem)
                continue
            self._told[int(annotation["id"])] = reading
            yield reading

    def holds(self, annotation_id: int, control: str, is_held: Callable[[AnnotationReading, str], bool]) -> bool:
        """Say whether an annotation still holds something of ours.

        What the pages do not tell is asked for again: a page may have missed it, and removing it wrongly would lose it.
        """
        told = self._told.get(annotation_id)
        if told is not None and is_held(told, control):
            return True
        if annotation_id not in self._asked:
            self._asked[annotation_id] = self._ask(annotation_id)
        found = self._asked[annotation_id]
        return found is not None and is_held(found, control)

    def _ask(self, annotation_id: int) -> AnnotationReading | None:
        annotation = self._client.annotation(annotation_id)
        if annotation is None or annotation.get("project") != self._project_id:
            return None
        task = {"id": annotation["task"], "data": {known.image_field: "unread" for known in self._controls}}
        try:
            return parse_annotation(annotation, task, self._project_id, self._controls)
        except RequestError as problem:
            return AnnotationReading(ignored=str(problem))


def _counts(reading: AnnotationReading, control: str) -> bool:
    """Say whether what this control of the annotation corrected still counts."""
    return reading.removed is None and control not in reading.emptied


def _is_recorded(reading: AnnotationReading, control: str) -> bool:
    return _counts(reading, control) or control in {skip.control for skip in reading.skips}


def _beside_proposal(submission: Submission, task: Task, log: SuggestionLog) -> tuple[Correction, list[Suggestion]]:
    """Return the correction beside the caption we had proposed, and what we had suggested, newest first."""
    mine = submission.correction
    if remembered := _remembered(mine, log):
        return with_proposal(submission, remembered), remembered
    annotation = next(found for found in task["annotations"] if found["id"] == mine.annotation_id)
    named_first = _stored_predictions(task, mine, named=annotation.get("parent_prediction"))
    correction = with_proposal(submission, named_first)
    return replace(correction, image_key=None), _stored_predictions(task, mine)


def _remembered(place: Correction | Skip, log: SuggestionLog) -> list[Suggestion]:
    return log.find(place.project_id, place.task_id, place.control, place.image_ref)


def _stored_predictions(task: Task, place: Correction | Skip, named: int | None = None) -> list[Suggestion]:
    """Return what Label Studio stored of our suggestions, newest first; image keys are empty.

    Args:
        named: id of a prediction to put first.
    """
    newest_first = sorted(task["predictions"], key=lambda found: (found["id"] == named, found["id"]), reverse=True)
    return [
        Suggestion(
            project_id=place.project_id,
            task_id=place.task_id,
            control=place.control,
            image_ref=place.image_ref,
            image_key="",
            caption=caption,
            model_version=str(prediction["model_version"] or ""),
            score=None,
        )
        for prediction in newest_first
        if (caption := _caption_in(prediction["result"], place.control))
    ]


def _caption_in(result: Sequence[Mapping[str, Any]], control: str) -> str:
    rows = [region["value"].get("text", []) for region in result if region.get("from_name") == control]
    texts = [text for row in rows for text in ([row] if isinstance(row, str) else row)]
    return "\n".join(texts).strip()
