"""The record of feedback: one control of one annotation, beside what we had suggested for it.

AnnotationState   an annotation as Label Studio describes it, with a Submission for each control
Feedback          a Submission beside our suggestion and its outcome; this is what Redis keeps
Correction        Feedback that has a caption; this is what learning reads
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Literal, Self

from model.errors import CorrectionError
from worker.feedback.edit_kinds import EditKind

Outcome = Literal["accepted", "alternative", "edited", "rewritten", "written", "skipped"]
Arm = Literal["shown", "withheld", "none"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
A_TIME = "a time with its zone in the years 1970 to 9998, like 2025-01-31T12:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One control of an annotation as its annotator left it.

    Raises CorrectionError when a caption is empty, when updated_at is no point in time, or when text is half a
    character.
    """

    project_id: int
    task_id: int
    annotation_id: int
    annotation_uid: str
    """Label Studio's UUID of the annotation. "" after a pull, because only events and exports tell it."""
    created_at: str | None = None
    """When the annotation was created. With the id it identifies the annotation, because Label Studio reuses ids."""
    control: str
    """from_name of the TextArea."""
    image_ref: str
    """The image as the task names it: an upload path, an address, a data: URI."""
    caption: str | None
    """None when the annotator skipped the task."""
    prefilled: str | None = None
    """The suggestion that a skipped field held unchanged."""
    origin: str | None = None
    """Label Studio's hint: `prediction`, `prediction-changed`, `manual`; None for what came by its API."""
    annotator: int | None
    """Label Studio's user id."""
    lead_time_s: float | None
    ground_truth: bool = False
    updated_at: str
    """ISO 8601 in UTC with microseconds, so that texts order as times do. Other forms are converted into this one."""
    request_id: str | None = None
    """Of the request that reported it; None where there was none, as in a periodic pull."""

    def __post_init__(self) -> None:
        if self.caption is not None and not self.caption.strip():
            raise CorrectionError(
                f"annotation {self.annotation_id}: the caption of {self.control!r} is empty; "
                f"an emptied annotation removes its correction"
            )
        try:
            object.__setattr__(self, "updated_at", utc(self.updated_at))
        except ValueError as cause:
            raise CorrectionError(f"annotation {self.annotation_id}: updated_at must be {cause}") from cause
        try:
            "".join(value for value in vars(self).values() if isinstance(value, str)).encode()
        except UnicodeEncodeError as cause:
            raise CorrectionError(f"annotation {self.annotation_id}: half a character in it, {cause}") from cause

    @property
    def name(self) -> str:
        """Its field in Redis, and its name in a version's training record."""
        return f"{self.annotation_id}/{self.control}"


@dataclass(frozen=True, kw_only=True)
class AnnotationState:
    """The content of one annotation at one time."""

    project_id: int
    task_id: int
    annotation_id: int
    annotation_uid: str
    created_at: str | None
    updated_at: str
    submissions: tuple[Submission, ...] = ()
    emptied: tuple[str, ...] = ()
    """Controls that hold no caption."""
    is_whole: bool = True
    """False where some of its text cannot be used. Then what was recorded of controls not named here stays."""
    ignored: str | None = None
    """Why some of its text cannot be used, in words."""


@dataclass(frozen=True, kw_only=True)
class Feedback(Submission):
    """A submission beside our suggestion, and what became of that suggestion."""

    image_key: str | None = None
    """SHA-256 of the image bytes; finds the features. None until somebody has read the image."""
    proposed: str | None = None
    """Our caption in the field, or None when the annotator wrote into an empty field."""
    arm: Arm = "none"
    """`shown` or `withheld`: our suggestion; `none` when there was none."""
    model_version: str | None = None
    """The version that suggested; None when there was no suggestion, or when its version is forgotten."""
    suggestion: str | None = None
    """The version's best caption."""
    generation: int | None = None
    """Of the memory that chose the suggestion; None where the version suggested alone."""
    like: tuple[str, ...] = ()
    """Names of the corrections of look-alike images that spoke for the suggestion most."""
    score: float | None = None
    """The decoder's own of it, 0 to 1; None for a caption that annotators wrote for a look-alike image."""
    outcome: Outcome = "written"
    word_edits: int | None = None
    """From our suggestion to the caption; None when there is only one of them."""
    kinds: tuple[EditKind, ...] = ()
    """Of an edit; a rewritten caption has none."""

    @property
    def microseconds(self) -> int:
        """updated_at since 1970."""
        return (datetime.fromisoformat(self.updated_at) - EPOCH) // timedelta(microseconds=1)

    def to_json(self, **more: Any) -> str:
        """Return the record, without fields that are None, and more fields beside it."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        if not self.like:
            del values["like"]
        return json.dumps(values | more, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; fields that this version does not know are left out.

        Raises:
            CorrectionError: the text is something else.
        """
        try:
            values: Mapping[str, Any] = json.loads(text)
            optional, names = _optional_fields(), _field_names()
            content = optional | {name: value for name, value in values.items() if name in names}
            content["kinds"], content["like"] = tuple(content["kinds"]), tuple(content["like"])
        except (ValueError, TypeError, AttributeError) as cause:
            raise CorrectionError(f"stored feedback cannot be read: {cause}") from cause
        if missing := names - content.keys():
            raise CorrectionError(f"stored feedback cannot be read: it has no {', '.join(sorted(missing))}")
        # It was checked when it was stored. To check it again takes half the time of reading twenty thousand.
        record = cls.__new__(cls)
        vars(record).update(content)
        return record


@dataclass(frozen=True, kw_only=True)
class Correction(Feedback):
    """One annotator's final caption for one image, beside the caption we proposed."""

    caption: str

    @property
    def is_edit(self) -> bool:
        return self.caption != self.proposed

    @property
    def state(self) -> str:
        """Names the correction as it is now; each change gives another name."""
        return state_of(self.name, self.updated_at)

    @property
    def proposed_by(self) -> str | None:
        """The version whose caption the annotator was shown."""
        return self.model_version if self.arm == "shown" else None


def state_of(name: str, updated_at: str) -> str:
    """Return the state of a correction of this name and time."""
    return sha256(f"{name} {updated_at}".encode()).hexdigest()[:12]


def utc(written: object) -> str:
    """Return a time in the one form that is stored.

    Raises:
        ValueError: it is no possible time; the message says what was expected and what came.
    """
    try:
        moment = datetime.fromisoformat(written if isinstance(written, str) else "")
        in_utc = moment.astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise ValueError(f"{A_TIME}, got {written!r:.60}") from cause
    if moment.tzinfo is None or not 1970 <= in_utc.year <= 9998:
        raise ValueError(f"{A_TIME}, got {written!r:.60}")
    return in_utc.isoformat(timespec="microseconds")


@cache
def _optional_fields() -> dict[str, Any]:
    """Return what fields hold that are not stored."""
    declared = {field.name: field.default for field in fields(Feedback) if field.default is not MISSING}
    return declared | dict.fromkeys(("caption", "annotator", "lead_time_s"))


@cache
def _field_names() -> frozenset[str]:
    return frozenset(declared.name for declared in fields(Feedback))
