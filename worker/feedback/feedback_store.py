"""The store of feedback: what annotators made of our suggestions, the newest state of each annotation and control.

What the store holds converges to what Label Studio holds. Between pulls webhooks decide by the annotation's UUID and by
time. Events may come late, twice or never, and some name nothing but an id that Label Studio has reused. So each event
marks its task, and the next pull reads the marked tasks and makes them what Label Studio holds now, whatever the times.

`feedback.lua` lists the keys in Redis and changes them, each change whole or not at all. Redis must run with an
append-only file (`appendonly yes`), or the last second before a crash is lost. What is lost is pulled again from Label
Studio. RedisError is never caught here: the backend answers 503, and the pull repairs it.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from redis import Redis
from rq.utils import as_text

from worker.feedback.layout import open_layout, run, run_all
from worker.feedback.left_projects import left_projects
from worker.feedback.proposals import find_proposal, judge
from worker.feedback.record import AnnotationState, Correction, Feedback
from worker.feedback.script import PROJECTS_KEY, Command, key
from worker.feedback.suggestions import Suggestion
from worker.feedback.totals import to_stored_json

READ_AT_ONCE = 200
RECORDS_AT_ONCE = 500
"""Records read in one request, so that Redis can answer others in between."""
RECENT = timedelta(seconds=5)
"""A deletion this soon after a record may be a late event about an earlier annotation with the same id."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The result of storing one state of an annotation."""

    feedback: tuple[Feedback, ...]
    is_new: bool
    """False when this state or a newer one was recorded before."""
    stored: int
    """Captions that came or changed."""
    removed: int
    """Captions that went."""
    is_refused: bool
    """The state seems old. The next pull finds out whether it is."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """The result of a deletion."""

    count: int
    """Captions that went."""
    is_doubtful: bool
    """The event may have been about an earlier annotation or task with the same id. The next pull finds out."""


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """The result of reading one task from Label Studio."""

    stored: int
    """Captions that came or changed."""
    removed: int
    """Captions that went."""
    is_settled: bool
    """False when an event came meanwhile, or when another task must be read again."""


@dataclass(frozen=True, kw_only=True)
class PullView:
    """Records of a project, as they were before Label Studio was read."""

    touches: int
    touched: Mapping[int, str]
    """Tasks that have to be read, each with the number of its last event."""
    times: Mapping[int, str]
    """Label Studio's time of each task that was read before."""
    names: Mapping[int, frozenset[str]]
    """Names of the records of each task."""


class FeedbackStore:
    """Every record of every project."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def record(self, state: AnnotationState, suggestions: Mapping[str, Sequence[Suggestion]]) -> Recorded:
        """Store what an annotation holds now, unless a newer state is stored or was removed.

        Args:
            state: the annotation.
            suggestions: of each control, for its task and image, newest first.
        """
        state = self.without_forgotten(state)
        feedback = [
            judge(submission, find_proposal(submission, suggestions[submission.control]))
            for submission in state.submissions
        ]
        [(verdict, stored, removed)] = run_all(self.redis, state.project_id, [record_command(state, feedback)])
        return Recorded(
            feedback=tuple(feedback),
            is_new=verdict == b"new",
            stored=stored,
            removed=removed,
            is_refused=verdict == b"refused",
        )

    def without_forgotten(self, state: AnnotationState) -> AnnotationState:
        """Return an annotation without what people wrote whose captions were removed (`captioner forget`)."""
        forgotten = {int(annotator) for annotator in self.redis.smembers(forgotten_key(state.project_id))}
        if not forgotten:
            return state
        stays = tuple(submission for submission in state.submissions if submission.annotator not in forgotten)
        return replace(state, submissions=stays)

    def remove(self, project_id: int, *, annotation_ids: Iterable[int] = (), task_ids: Iterable[int] = ()) -> Removed:
        """Remove the records of deleted annotations and of deleted tasks, and the tasks' suggestions."""
        now = datetime.now(UTC)
        times = [moment.isoformat(timespec="microseconds") for moment in (now, now - RECENT)]
        commands = [Command("remove_annotation", (number, *times)) for number in annotation_ids]
        commands += [Command("remove_task", (number, *times), number) for number in task_ids]
        replies = run_all(self.redis, project_id, commands)
        return Removed(
            count=sum(count for count, _ in replies), is_doubtful=any(is_doubtful for _, is_doubtful in replies)
        )

    def begin_pull(self, project_id: int, read_as: str) -> PullView:
        """Return the records of a project; call this before Label Studio is read.

        Args:
            read_as: names how annotations are read. When it differs from the last pull, every task is read again.
        """
        open_layout(self.redis)
        pulled = key("pulled", project_id)
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(key("changes", project_id), "touches")
            pipeline.hgetall(key("touched", project_id))
            pipeline.hgetall(pulled)
            pipeline.zrangebylex(key("index", project_id), "[t:", "(t;")
            pipeline.hlen(key("feedback", project_id))
            touches, touched, times, entries, count = pipeline.execute()
        remembered = {as_text(field): as_text(time) for field, time in times.items()}
        if remembered.pop("read-as", None) != read_as or not count:
            self.redis.delete(pulled)
            self.redis.hset(pulled, "read-as", read_as)
            remembered = {}
        return PullView(
            touches=int(touches or 0),
            touched={int(task_id): as_text(number) for task_id, number in touched.items()},
            times={int(task_id): time for task_id, time in remembered.items()},
            names=_by_task(map(as_text, entries)),
        )

    def replace_task(
        self,
        project_id: int,
        task_id: int,
        view: PullView,
        feedback: Sequence[Feedback],
        gone: Iterable[str],
        *,
        time: str | None,
        is_complete: bool,
    ) -> Replaced:
        """Let the records of a task be what Label Studio was just read to hold, unless an event came meanwhile.

        Args:
            project_id: of the task.
            task_id: of the task.
            view: of the project, from before Label Studio was read.
            feedback: what the task's annotations hold.
            gone: names of records that they no longer hold.
            time: Label Studio's of the task; None when it lists none.
            is_complete: False when some annotation could not be read. Then the next pull reads the task again.
        """
        noted = (task_id, view.touched.get(task_id, ""), view.touches, time or "", int(is_complete))
        written = json.dumps(sorted(gone), ensure_ascii=False)
        reply = run(self.redis, project_id, "replace_task", *noted, written, *_rows(feedback))
        is_done, stored, removed, is_taken = reply
        return Replaced(stored=stored, removed=removed, is_settled=bool(is_done and not is_taken))

    def attach_image_key(self, correction: Correction, image_key: str) -> bool:
        """Add the image's key to a correction; False when it changed or went meanwhile. No change for a training."""
        text = self.redis.hget(key("feedback", correction.project_id), correction.name)
        if text is None or Correction.from_json(text) != correction:
            return False
        values = json.loads(text) | {"image_key": image_key}
        amended = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return bool(run(self.redis, correction.project_id, "amend", correction.name, text, amended))

    def exclude(self, project_id: int, name: str, reason: str, *, automatic: bool = False) -> bool:
        """Exclude a correction from training until it is included again. Both count as changes.

        Args:
            project_id: of the correction.
            name: of the correction.
            reason: in words for a person.
            automatic: the correction made a job fail. Then it is included again when the annotator changes it. What
                a person excluded stays so, and no job gives it another reason. Either ends when the correction is
                removed.

        Returns:
            False when there is no such correction, or when it is excluded already.
        """
        why = json.dumps({"reason": reason, "automatic": automatic}, ensure_ascii=False)
        return bool(run(self.redis, project_id, "exclude", name, why))

    def include(self, project_id: int, name: str) -> bool:
        """Undo `exclude`; False when the correction was not excluded."""
        return bool(run(self.redis, project_id, "include", name))

    def excluded(self, project_id: int) -> dict[str, str]:
        """Return the name of each excluded correction, and why it is excluded."""
        stored = self.redis.hgetall(key("excluded", project_id))
        return {as_text(name): json.loads(why)["reason"] for name, why in stored.items()}

    def corrections(self, project_id: int) -> list[Correction]:
        """Return the project's corrections, the excluded ones too, oldest first."""
        names = cast(list[bytes], self.redis.zrange(key("times", project_id), 0, -1))
        corrections = [Correction.from_json(text) for text in self._read(project_id, names)]
        return sorted(corrections, key=lambda correction: (correction.updated_at, correction.annotation_id))

    def find(self, project_id: int, name: str) -> Correction | None:
        """Return one correction by its name; None when it is not here (any more)."""
        if self.redis.zscore(key("times", project_id), name) is None:
            return None
        text = self.redis.hget(key("feedback", project_id), name)
        return None if text is None else Correction.from_json(text)

    def find_all(self, project_id: int, names: Iterable[str]) -> dict[str, Correction]:
        """Return corrections by their names, without those that are not here (any more)."""
        read = [Correction.from_json(text) for text in self._read(project_id, list(dict.fromkeys(names)))]
        return {correction.name: correction for correction in read if correction.caption is not None}

    def newest_first(self, project_id: int, start: int = 0) -> Iterator[Correction]:
        """Yield the corrections from the newest to the oldest.

        They are read as they are used, some hundred at a time, so a look at the newest costs the same however many
        there are.

        Args:
            start: how many of the newest to leave out.
        """
        times = key("times", project_id)
        while names := cast(list[bytes], self.redis.zrevrange(times, start, start + READ_AT_ONCE - 1)):
            yield from (Correction.from_json(text) for text in self._read(project_id, names))
            start += len(names)

    def records(self, project_id: int) -> Iterator[Feedback]:
        """Yield all of the project's feedback, skips too, by annotation id."""
        names = [as_text(name) for name in self.redis.hkeys(key("feedback", project_id))]
        order = [(int(number), control) for number, control in (name.split("/", 1) for name in names)]
        sorted_names = [f"{number}/{control}" for number, control in sorted(order)]
        yield from (Feedback.from_json(text) for text in self._read(project_id, sorted_names))

    def sample(self, project_id: int, count: int) -> list[Feedback]:
        """Return so many of the project's records drawn at random, or all if there are no more."""
        drawn: Any = self.redis.hrandfield(key("feedback", project_id), count, withvalues=True)
        return [Feedback.from_json(text) for text in drawn[1::2]]

    def projects(self) -> list[int]:
        """Return every project that ever had a correction and has not left (worker/feedback/left_projects.py)."""
        left = left_projects(self.redis)
        return [project_id for project_id in self.known_projects() if project_id not in left]

    def known_projects(self) -> list[int]:
        """Return every project that ever had a correction, those that have left too."""
        return sorted(int(project_id) for project_id in self.redis.smembers(PROJECTS_KEY))

    def _read(self, project_id: int, names: Sequence[str | bytes]) -> Iterator[bytes | str]:
        for start in range(0, len(names), RECORDS_AT_ONCE):
            texts = self.redis.hmget(key("feedback", project_id), list(names[start : start + RECORDS_AT_ONCE]))
            yield from (text for text in texts if text is not None)


def forgotten_key(project_id: int) -> str:
    """Return the key of the set of people whose captions in this project are not kept, by Label Studio's user id."""
    return key("forgotten", project_id)


def record_command(state: AnnotationState, feedback: Sequence[Feedback]) -> Command:
    """Return the command of the script that stores a state of an annotation.

    Args:
        state: the annotation.
        feedback: what became of our suggestions for it.
    """
    fields = ("project_id", "task_id", "annotation_id", "annotation_uid", "created_at", "updated_at", "is_whole")
    values: dict[str, Any] = {name: getattr(state, name) for name in fields}
    values |= {"emptied": state.emptied, "is_empty": not feedback and state.is_whole}
    return Command("record", (json.dumps(values, ensure_ascii=False), *_rows(feedback)))


def _rows(feedback: Iterable[Feedback]) -> list[str | int]:
    """Return the arguments of the script for records: name, JSON and time of each."""
    return [value for record in feedback for value in (record.name, to_stored_json(record), record.microseconds)]


def _by_task(entries: Iterable[str]) -> dict[int, frozenset[str]]:
    """Return the names by task, from entries of the index like `t:<task id>:<name>`."""
    names: defaultdict[int, set[str]] = defaultdict(set)
    for entry in entries:
        _, task_id, name = entry.split(":", 2)
        names[int(task_id)].add(name)
    return {task_id: frozenset(of_task) for task_id, of_task in names.items()}
