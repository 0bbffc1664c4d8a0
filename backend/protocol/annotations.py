"""Reading of an annotation as Label Studio sends it, in a webhook or in the reply to a pull.

Foreign JSON is read here. These functions are pure: they store nothing and ask nobody.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.protocol.json_fields import LARGEST_NUMBER, checked, need, need_objects
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from model.errors import CorrectionError, RequestError, TaskError
from worker.feedback.record import AnnotationState, Submission, utc
from worker.request_id import current_request_id


def parse_annotation(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    project_id: int,
    controls: Sequence[CaptionControl],
    path: str = "annotation.",
    *,
    not_captions: Collection[str] = (),
) -> AnnotationState:
    """Read one annotation of one task, from a webhook or pulled from Label Studio.

    Args:
        annotation: as Label Studio sends it.
        task: the annotation's, as Label Studio sends it.
        project_id: the annotation's.
        controls: text areas of the project whose captions are read.
        path: where the annotation stands in the request, for messages.
        not_captions: text areas of the project that hold something else.

    Raises:
        RequestError: a key is missing or of a wrong type, or a time is impossible.
    """
    place = {"project_id": project_id, "task_id": need(task, "id", int, "task."), **_identity(annotation, path)}
    is_skipped = need(annotation, "was_cancelled", bool, path)
    regions = _text_regions(annotation, path)
    task_data = need(task, "data", dict, "task.")
    filled = [control for control in controls if is_skipped or _of_control(regions, control)]
    submissions, problems = [], []
    for control in filled:
        try:
            submissions.append(_submission(annotation, place, task_data, control, regions, is_skipped=is_skipped))
        except (TaskError, CorrectionError) as problem:
            problems.append(str(problem))
    text_areas = {control.from_name for control in controls} | set(not_captions)
    others = sorted({region.from_name for region in regions} - text_areas)
    is_whole = is_skipped or not (problems or others)
    if others and not submissions and not is_skipped:
        problems.append(f"the labeling config has no caption TextArea {', '.join(others)}")
    return AnnotationState(
        **place,
        submissions=tuple(submissions),
        emptied=tuple(control.from_name for control in controls if control not in filled),
        is_whole=is_whole,
        ignored="; ".join(problems) or None,
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
    """Return all rows, each on its own line, because a text area may hold several."""
    return "\n".join(row for region in regions for row in region.rows)


def _submission(
    annotation: Mapping[str, Any],
    place: Mapping[str, Any],
    task_data: Mapping[str, Any],
    control: CaptionControl,
    regions: Sequence[_TextRegion],
    *,
    is_skipped: bool,
) -> Submission:
    """Return what one control of the annotation holds.

    Raises:
        TaskError: the task names no image.
        CorrectionError: the text cannot be stored.
    """
    regions = _of_control(regions, control)
    is_untouched = bool(regions) and all(region.origin == "prediction" for region in regions)
    return Submission(
        **place,
        control=control.from_name,
        image_ref=compact_image_ref(read_image_ref(task_data, control)),
        caption=None if is_skipped else _caption(regions),
        prefilled=_caption(regions) if is_skipped and is_untouched else None,
        origin=None if is_skipped else regions[0].origin,
        annotator=_annotator(annotation.get("completed_by")),
        lead_time_s=_lead_time_s(annotation.get("lead_time")),
        ground_truth=annotation.get("ground_truth") is True,
        request_id=current_request_id(),
    )


def _of_control(regions: Sequence[_TextRegion], control: CaptionControl) -> list[_TextRegion]:
    return [region for region in regions if region.from_name == control.from_name]


def _identity(annotation: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return what tells this state of this annotation from others."""
    has_created_at = annotation.get("created_at") is not None
    return {
        "annotation_id": need(annotation, "id", int, path),
        "annotation_uid": checked(annotation.get("unique_id") or "", str, f"{path}unique_id"),
        "created_at": _time(annotation, "created_at", path) if has_created_at else None,
        "updated_at": _time(annotation, "updated_at", path),
    }


def _time(annotation: Mapping[str, Any], field: str, path: str) -> str:
    """Return a time of the annotation in the one form that is stored."""
    try:
        return utc(need(annotation, field, str, path))
    except ValueError as cause:
        raise RequestError(f"{path}{field} must be {cause}") from cause


def _annotator(completed_by: Any) -> int | None:
    """Return the user's id; some replies of Label Studio hold the whole user."""
    user_id = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return user_id if isinstance(user_id, int) and 0 < user_id <= LARGEST_NUMBER else None


def _lead_time_s(lead_time: Any) -> float | None:
    """Return the seconds, or None for anything else, NaN too: a wrong time must not cost us the caption."""
    is_seconds = isinstance(lead_time, int | float) and 0 <= lead_time <= LARGEST_NUMBER
    return float(lead_time) if is_seconds else None
