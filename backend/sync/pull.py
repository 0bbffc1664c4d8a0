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
from backend.protocol.label_config import parse_caption_controls
from model.errors import RequestError
from worker.feedback.proposals import find_proposal, judge
from worker.feedback.record import AnnotationState, Feedback, Submission
from worker.feedback.store import FeedbackStore, PullView
from worker.feedback.suggestions import Suggestion, SuggestionLog

logger = logging.getLogger(__name__)

READ_AS = 3
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
    project_id = project.project_id
    pull = _Pull(client, redis, project)
    # What arrives by webhook from here on is newer than what will be read, and wins.
    view = pull.view
    times = client.annotated_task_times(project_id) | client.skipped_task_times(project_id)
    changed = {task_id for task_id, time in times.items() if view.times.get(task_id) != time}
    wanted = changed | set(view.touched) | (set(view.names) - set(times))
    counts = [pull.replace(task, times.get(int(task["id"]))) for task in client.tasks(project_id, sorted(wanted))]
    counts += [pull.replace_absent(task_id) for task_id in sorted(wanted - pull.read)]
    done = Reconciliation(stored=sum(stored for stored, _ in counts), removed=sum(removed for _, removed in counts))
    # Most periodic pulls find nothing.
    logger.log(
        logging.INFO if done.changed else logging.DEBUG,
        "annotations pulled project=%s tasks=%s read=%s stored=%s removed=%s",
        project_id,
        len(times),
        len(wanted),
        done.stored,
        done.removed,
    )
    return done


class _Pull:
    """One pull of one project."""

    def __init__(self, client: LabelStudioClient, redis: Redis, project: Project) -> None:
        self.client = client
        self.project_id = project.project_id
        self.controls = parse_caption_controls(project.label_config)
        self.store = FeedbackStore(redis)
        self.log = SuggestionLog(redis)
        read_as = hashlib.sha256(f"{READ_AS} {project.label_config}".encode()).hexdigest()
        self.view: PullView = self.store.begin_pull(self.project_id, read_as)
        self.read: set[int] = set()
        """Tasks that Label Studio still has."""

    def replace(self, task: Task, time: str | None) -> tuple[int, int]:
        """Let the records of a task be what it holds; returns how many captions were stored and removed.

        An annotation that cannot be read is logged, and its records stay until a later pull can read it.
        """
        task_id = int(task["id"])
        self.read.add(task_id)
        states, unreadable = self._read(task)
        feedback = [found for state in states for found in self._feedback(state, task)]
        held = {found.name for found in feedback} | _kept(states, unreadable, self.view.names.get(task_id, frozenset()))
        is_complete = not unreadable
        return self._replace(task_id, feedback, held, time, is_complete=is_complete)

    def replace_absent(self, task_id: int) -> tuple[int, int]:
        """Remove the records of a task that Label Studio does not have; returns what `replace` does."""
        return self._replace(task_id, [], set(), None, is_complete=True)

    def _replace(
        self, task_id: int, feedback: Sequence[Feedback], held: set[str], time: str | None, *, is_complete: bool
    ) -> tuple[int, int]:
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
                states.append(parse_annotation(annotation, task, self.project_id, self.controls))
            except RequestError as problem:
                logger.warning("annotation not read project=%s task=%s reason=%s", self.project_id, task["id"], problem)
                number = annotation.get("id")
                unreadable.append(number if isinstance(number, int) else None)
        return states, unreadable

    def _feedback(self, state: AnnotationState, task: Task) -> list[Feedback]:
        """Return what an annotation holds, each caption or skip beside the caption that we had proposed."""
        remembered = self.log.find_for(state)
        annotation = next(found for found in task["annotations"] if found["id"] == state.annotation_id)
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
        task = {"id": task_id, "data": {control.image_field: "unread" for control in self.controls}}
        try:
            state = parse_annotation(annotation, task, self.project_id, self.controls)
        except RequestError:
            return True
        return name in {submission.name for submission in state.submissions} or name in _kept([state], [], {name})


def _kept(states: Iterable[AnnotationState], unreadable: Iterable[int | None], names: Iterable[str]) -> set[str]:
    """Return the names whose records stay, because the annotation holds something there that cannot be used."""
    partial = {state.annotation_id: set(state.emptied) for state in states if not state.is_whole}
    unread = set(unreadable)
    kept = set()
    for name in names:
        number, control = name.split("/", 1)
        if unread & {int(number), None} or control not in partial.get(int(number), {control}):
            kept.add(name)
    return kept


def _stored_predictions(task: Task, submission: Submission) -> dict[int, Suggestion]:
    """Return what Label Studio stored of our suggestions by prediction id, newest first; image keys are empty."""
    newest_first = sorted(task["predictions"], key=lambda prediction: int(prediction["id"]), reverse=True)
    return {
        prediction["id"]: Suggestion(
            project_id=submission.project_id,
            task_id=submission.task_id,
            control=submission.control,
            image_ref=submission.image_ref,
            image_key="",
            caption=caption,
            model_version=str(prediction["model_version"] or ""),
            score=None,
        )
        for prediction in newest_first
        if (caption := _caption_in(prediction["result"], submission.control))
    }


def _caption_in(result: Sequence[Mapping[str, Any]], control: str) -> str:
    rows = [region["value"].get("text", []) for region in result if region.get("from_name") == control]
    texts = [text for row in rows for text in ([row] if isinstance(row, str) else row)]
    return "\n".join(texts).strip()
