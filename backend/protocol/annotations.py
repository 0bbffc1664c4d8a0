"""What one annotation says about our captions, told by a webhook or pulled (docs/label-studio.md).

Foreign JSON stops here. Nothing is stored and nobody is asked: these functions are pure, `CaptionBackend.fit` acts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.protocol.json_fields import LARGEST_NUMBER, checked, need, need_objects
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from model.errors import CorrectionError, TaskError
from worker.feedback.corrections import Correction
from worker.feedback.ledger_records import Skip
from worker.feedback.suggestions import Suggestion, seen_suggestions


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
    skips: tuple[Skip, ...] = ()
    """Each control that has an image, when it was skipped."""
    ignored: str | None = None
    """Why a caption in it cannot be used, in words."""


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
        return _skipped(annotation, task, project_id, controls, path)
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
        suggestions: what we suggested for this control, task and image, newest first; withheld ones among them.
    """
    final, proposed = submission.correction, None
    seen = seen_suggestions(suggestions, was_prefilled=submission.origin in {"prediction", "prediction-changed"})
    if submission.origin in {"prediction", None}:
        # Accepted: the annotator may have seen an older suggestion than the newest.
        proposed = next((known for known in seen if known.caption == final.caption), None)
    if proposed is None and seen:
        proposed = seen[0]
    if proposed is not None:
        return replace(
            final,
            proposed=proposed.caption,
            model_version=proposed.model_version,
            image_key=proposed.image_key,
        )
    if submission.origin == "prediction":
        # What we suggested is forgotten (Redis was lost); the hint is all that is left.
        return replace(final, proposed=final.caption)
    return replace(final, image_key=suggestions[0].image_key) if suggestions else final


def _skipped(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    project_id: int,
    controls: Sequence[CaptionControl],
    path: str,
) -> AnnotationReading:
    skips, problems = [], []
    regions = _text_regions(annotation, path)
    for control in controls:
        mine = [region for region in regions if region.from_name == control.from_name]
        try:
            skips.append(_skip(annotation, task, project_id, control, mine, path))
        except (TaskError, CorrectionError) as problem:
            problems.append(str(problem))
    return AnnotationReading(
        removed=need(annotation, "id", int, path), skips=tuple(skips), ignored="; ".join(problems) or None
    )


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
        lead_time_s=_lead_time_s(annotation.get("lead_time")),
        ground_truth=annotation.get("ground_truth") is True,
        updated_at=need(annotation, "updated_at", str, path),
    )


def _skip(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    project_id: int,
    control: CaptionControl,
    regions: Sequence[_TextRegion],
    path: str,
) -> Skip:
    is_untouched = bool(regions) and all(region.origin == "prediction" for region in regions)
    return Skip(
        project_id=project_id,
        task_id=need(task, "id", int, "task."),
        annotation_id=need(annotation, "id", int, path),
        control=control.from_name,
        image_ref=compact_image_ref(read_image_ref(need(task, "data", dict, "task."), control)),
        prefilled=_caption(regions) if is_untouched else None,
        annotator=_annotator(annotation.get("completed_by")),
        lead_time_s=_lead_time_s(annotation.get("lead_time")),
        updated_at=need(annotation, "updated_at", str, path),
    )


def _annotator(completed_by: Any) -> int | None:
    """Return the user's id; some replies of Label Studio hold the whole user."""
    found = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return found if isinstance(found, int) and 0 < found <= LARGEST_NUMBER else None


def _lead_time_s(lead_time: Any) -> float | None:
    """Return the seconds; what is no such number (NaN is none either) must not cost us the caption."""
    is_seconds = isinstance(lead_time, int | float) and 0 <= lead_time <= LARGEST_NUMBER
    return float(lead_time) if is_seconds else None
