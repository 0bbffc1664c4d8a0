"""The captions we suggested, kept in Redis so that a correction can say what was proposed and by which version.

    captioner:suggestions:<project>:<task>   list of suggestions as JSON, newest first; `feedback.lua` bounds it

Suggestions that HIDE_SUGGESTIONS_SHARE withheld are among them. The ledger's totals count each task, control and image
once for each version, as long as the log remembers it.

Label Studio forgets the link when a prediction is deleted, and it reuses task ids. So a suggestion is found by project,
task, control and the image it was made for.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from typing import Any, Self

from redis import Redis

from worker.feedback.layout import run_all
from worker.feedback.record import AnnotationState
from worker.feedback.script import Command, suggestions_key
from worker.feedback.suggestion_forms import FIRST

_LABEL = re.compile(r"(.*?)(?:\+m([0-9]+))?(?:\+f([0-9]+))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One caption that one model version suggested for one control of one task."""

    project_id: int
    task_id: int
    control: str
    """from_name of the TextArea it was made for."""
    image_ref: str
    """The image as the task named it when the suggestion was made."""
    image_key: str
    """SHA-256 of the image bytes."""
    caption: str
    model_version: str
    score: float | None
    """The decoder's own, 0 to 1; None for a suggestion that was read from Label Studio."""
    generation: int | None = None
    """Of the memory that chose the caption; None where the decoder suggested alone."""
    like: tuple[str, ...] = ()
    """Names of the corrections of look-alike images that spoke for it most."""
    withheld: bool = False
    """True if nobody was shown it, so that captions with and without a suggestion can be compared."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What Label Studio is told as the model version: `v3-1a2b3c4d+m41+f2`."""

    version: str
    generation: int | None = None
    """Of the memory; None where the decoder suggested alone."""
    form: int = FIRST
    """Of the suggestions (worker/feedback/suggestion_forms.py)."""

    def __str__(self) -> str:
        memory = "" if self.generation is None else f"+m{self.generation}"
        return self.version + memory + ("" if self.form == FIRST else f"+f{self.form}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a label; a version of somebody else is a version alone."""
        version, generation, form = _LABEL.fullmatch(text).groups()  # type: ignore[union-attr]  # it matches any text
        return cls(
            version=version,
            generation=None if generation is None else int(generation),
            form=FIRST if form is None else int(form),
        )


def label_of(version: str, generation: int | None) -> str:
    """Return the label of a version, and of the memory where it spoke."""
    return str(Label(version=version, generation=generation))


def with_form(label: str, form: int) -> str:
    """Return a label with another form."""
    return str(replace(Label.parse(label), form=form))


def version_of_label(label: str) -> tuple[str, int | None]:
    """Return the version and the generation of the memory in a label."""
    parsed = Label.parse(label)
    return parsed.version, parsed.generation


def shown_suggestions(suggestions: Sequence[Suggestion], *, was_prefilled: bool = False) -> list[Suggestion]:
    """Return those that an annotator may have been shown: none where the newest was withheld.

    Args:
        suggestions: of one control, task and image, newest first.
        was_prefilled: True where Label Studio says that a suggestion was in the field. Then an earlier one was shown.
    """
    if suggestions and suggestions[0].withheld and not was_prefilled:
        return []
    return [suggestion for suggestion in suggestions if not suggestion.withheld]


class SuggestionLog:
    """The latest suggestions, by task."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def remember(self, suggestions: Sequence[Suggestion]) -> None:
        """Keep the suggestions, the last one as the newest of its task; the same one again only becomes the newest."""
        for project_id, of_project in groupby(suggestions, lambda suggestion: suggestion.project_id):
            of_tasks = groupby(of_project, lambda suggestion: suggestion.task_id)
            commands = [Command("suggest", tuple(map(_record, of_task)), task_id) for task_id, of_task in of_tasks]
            run_all(self.redis, project_id, commands)

    def find(self, project_id: int, task_id: int, control: str, image_ref: str) -> list[Suggestion]:
        """Return the suggestions for this control of this task and this image, newest first."""
        return _of_place(self._records(project_id, task_id), project_id, task_id, control, image_ref)

    def is_of_another_image(self, project_id: int, task_id: int, control: str, image_ref: str) -> bool:
        """Say whether the newest suggestion for a control of a task was made for another image than this one."""
        records = [it for it in self._records(project_id, task_id) if it["control"] == control]
        return bool(records) and records[0]["image_ref_sha256"] != _digest(image_ref)

    def find_for(self, state: AnnotationState) -> dict[str, list[Suggestion]]:
        """Return the same for each control of an annotation; one request."""
        if not state.submissions:
            return {}
        records = self._records(state.project_id, state.task_id)
        return {
            submission.control: _of_place(
                records, state.project_id, state.task_id, submission.control, submission.image_ref
            )
            for submission in state.submissions
        }

    def _records(self, project_id: int, task_id: int) -> list[dict[str, Any]]:
        texts = self.redis.lrange(suggestions_key(project_id, task_id), 0, -1)
        return [json.loads(text) for text in texts]


def _of_place(
    records: Sequence[dict[str, Any]], project_id: int, task_id: int, control: str, image_ref: str
) -> list[Suggestion]:
    digest = _digest(image_ref)
    return [
        _suggestion(record, project_id=project_id, task_id=task_id, image_ref=image_ref)
        for record in records
        if record["image_ref_sha256"] == digest and record["control"] == control
    ]


def _suggestion(record: dict[str, Any], **place: Any) -> Suggestion:
    names = {declared.name for declared in fields(Suggestion)}
    values = {name: value for name, value in record.items() if name in names}
    return Suggestion(**place, **values | {"like": tuple(record.get("like", ()))})


def _record(suggestion: Suggestion) -> str:
    record = asdict(suggestion)
    del record["project_id"], record["task_id"]
    if suggestion.generation is None:
        del record["generation"], record["like"]
    # A data: URI is a whole image; its digest tells as well whether the task still shows it.
    record["image_ref_sha256"] = _digest(record.pop("image_ref"))
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _digest(image_ref: str) -> str:
    return hashlib.sha256(image_ref.encode()).hexdigest()
