"""The pull: it makes the store of feedback hold what Label Studio holds.

A webhook has one second and is never repeated, some deletions send none at all, and some events name nothing but an id
that Label Studio has reused. So a pull decides by what Label Studio holds now, not by times.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from backend.label_studio.client import LabelStudioClient, Project, Task
from backend.protocol.annotations import parse_annotation
from backend.protocol.label_config import parse_caption_fields
from backend.protocol.predictions import texts_of
from model.errors import RequestError
from worker.feedback.feedback_store import FeedbackStore, PullView, Replaced
from worker.feedback.proposals import find_proposal, judge
from worker.feedback.record import AnnotationState, Feedback, Submission
from worker.feedback.suggestions import Suggestion, SuggestionLog, version_of_label

logger = logging.getLogger(__name__)

PASSES = 2
"""What an event interrupts, or what an annotation's id links to another task, is read once more."""
READ_AS = 4
"""The way annotations are read. A higher number makes the next pull read every task again."""


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """The changes that one pull made, in captions; a skip is no reason to train."""

    stored: int
    removed: int

    @property
    def changed(self) -> int:
        return self.stored + self.removed


def reconcile(client: LabelStudioClient, redis: Redis, project: Project) -> Reconciliation:
    """Pull a project's annotations and change what is recorded where it differs.

    Read are the tasks that changed in Label Studio since they were read last, those that an event named since then, and
    those that have records here and no annotation there. Of all others only the time is asked, which is seven times
    cheaper.

    Raises:
        LabelStudioError: they cannot be pulled; what was pulled before is stored.
        LabelConfigError: the project's labeling config has no caption.
    """
    replaced: list[Replaced] = []
    for _ in range(PASSES):
        of_pass = _Pull(client, redis, project).run()
        replaced += of_pass
        if all(task.is_settled for task in of_pass):
            break
    done = Reconciliation(stored=sum(task.stored for task in replaced), removed=sum(task.removed for task in replaced))
    # Most periodic pulls find nothing.
    logger.log(
        logging.INFO if done.changed else logging.DEBUG,
        "annotations pulled project=%s read=%s stored=%s removed=%s",
        project.project_id,
        len(replaced),
        done.stored,
        done.removed,
    )
    return done


class _Pull:
    """One pull of one project."""

    def __init__(self, client: LabelStudioClient, redis: Redis, project: Project) -> None:
        self.client = client
        self.project_id = project.project_id
        self.fields = parse_caption_fields(project.label_config)
        self.store = FeedbackStore(redis)
        self.log = SuggestionLog(redis)
        read_as = hashlib.sha256(f"{READ_AS} {project.label_config}".encode()).hexdigest()
        self.view: PullView = self.store.begin_pull(self.project_id, read_as)

    def run(self) -> list[Replaced]:
        """Read every task that may differ; what arrives by webhook meanwhile is newer and wins."""
        client, view, read = self.client, self.view, set()
        times = client.annotated_task_times(self.project_id) | client.skipped_task_times(self.project_id)
        changed = {task_id for task_id, time in times.items() if view.times.get(task_id) != time}
        wanted = changed | set(view.touched) | (set(view.names) - set(times))
        replaced = []
        for task in client.tasks(self.project_id, sorted(wanted)):
            read.add(int(task["id"]))
            replaced.append(self._replace_read(task, times.get(int(task["id"]))))
        absent = sorted(wanted - read)
        return replaced + [self._replace(task_id, [], set(), None, is_complete=True) for task_id in absent]

    def _replace_read(self, task: Task, time: str | None) -> Replaced:
        """Let the records of a task be what it holds.

        An annotation that cannot be read is logged, and its records stay until a later pull can read it.
        """
        task_id = int(task["id"])
        states, unreadable = self._read(task)
        feedback = [record for state in states for record in self._feedback(state, task)]
        held = {record.name for record in feedback} | _unusable(
            states, unreadable, self.view.names.get(task_id, frozenset())
        )
        is_complete = not unreadable
        return self._replace(task_id, feedback, held, time, is_complete=is_complete)

    def _replace(
        self, task_id: int, feedback: Sequence[Feedback], held: set[str], time: str | None, *, is_complete: bool
    ) -> Replaced:
        missing = self.view.names.get(task_id, frozenset()) - held
        # A page may have missed an annotation, and removing it wrongly would lose it.
        gone = {name for name in missing if not self._is_still_there(name, task_id)}
        is_complete = is_complete and gone == missing
        return self.store.replace_task(
            self.project_id, task_id, self.view, feedback, gone, time=time, is_complete=is_complete
        )

    def _read(self, task: Task) -> tuple[list[AnnotationState], list[int | None]]:
        """Return the annotations of a task, and the ids of those that cannot be read; None for an impossible id."""
        states: list[AnnotationState] = []
        unreadable: list[int | None] = []
        for annotation in task["annotations"]:
            try:
                state = self._parse(annotation, task)
                states.append(self.store.without_forgotten(state))
            except RequestError as problem:
                logger.warning("annotation not read project=%s task=%s reason=%s", self.project_id, task["id"], problem)
                number = annotation.get("id")
                unreadable.append(number if isinstance(number, int) else None)
        return states, unreadable

    def _parse(self, annotation: Mapping[str, Any], task: Task) -> AnnotationState:
        fields = self.fields
        return parse_annotation(annotation, task, self.project_id, fields.controls, not_captions=fields.others)

    def _feedback(self, state: AnnotationState, task: Task) -> list[Feedback]:
        """Return what an annotation holds, each caption or skip beside the caption that we had proposed."""
        remembered = self.log.find_for(state)
        annotation = next(it for it in task["annotations"] if it["id"] == state.annotation_id)
        parent = annotation.get("parent_prediction")
        feedback = []
        for submission in state.submissions:
            suggestions, named = remembered[submission.control], None
            if not suggestions:
                stored = _stored_predictions(task, submission)
                suggestions, named = list(stored.values()), stored.get(parent)
            feedback.append(judge(submission, find_proposal(submission, suggestions, named)))
        return feedback

    def _is_still_there(self, name: str, task_id: int) -> bool:
        """Ask Label Studio whether an annotation of the task still holds what is recorded under this name."""
        annotation = self.client.annotation(int(name.split("/", 1)[0]))
        if annotation is None or (annotation.get("project"), annotation.get("task")) != (self.project_id, task_id):
            return False
        task = {"id": task_id, "data": {control.image_field: "unread" for control in self.fields.controls}}
        try:
            state = self._parse(annotation, task)
        except RequestError:
            return True
        return name in {submission.name for submission in state.submissions} or name in _unusable([state], [], {name})


def _unusable(states: Iterable[AnnotationState], unreadable: Iterable[int | None], names: Iterable[str]) -> set[str]:
    """Return the names whose records stay, because their annotation holds something there that cannot be used."""
    partial = {state.annotation_id: set(state.emptied) for state in states if not state.is_whole}
    unread = set(unreadable)
    unusable = set()
    for name in names:
        number, control = name.split("/", 1)
        if unread & {int(number), None} or control not in partial.get(int(number), {control}):
            unusable.add(name)
    return unusable


def _stored_predictions(task: Task, submission: Submission) -> dict[int, Suggestion]:
    """Return what Label Studio stored of our suggestions by prediction id, newest first; image keys are empty."""
    newest_first = sorted(task["predictions"], key=lambda prediction: int(prediction["id"]), reverse=True)
    labels = [version_of_label(str(prediction["model_version"] or "")) for prediction in newest_first]
    return {
        prediction["id"]: Suggestion(
            project_id=submission.project_id,
            task_id=submission.task_id,
            control=submission.control,
            image_ref=submission.image_ref,
            image_key="",
            caption=caption,
            model_version=version,
            generation=generation,
            score=None,
        )
        for prediction, (version, generation) in zip(newest_first, labels, strict=True)
        if (caption := _caption_in(prediction["result"], submission.control))
    }


def _caption_in(result: Sequence[Mapping[str, Any]], control: str) -> str:
    texts = [text for region in result if region.get("from_name") == control for text in texts_of(region)]
    return "\n".join(texts).strip()
