"""Every recorded webhook of Label Studio, and what is read from it."""

import copy
from typing import Any

import pytest

from backend.protocol.annotations import parse_annotation
from backend.protocol.label_config import CaptionControl
from backend.protocol.webhook_events import WebhookEvent, parse_webhook
from model.errors import RequestError
from tests.payloads import load_payload, payload_names
from worker.feedback.proposals import find_proposal, judge
from worker.feedback.record import A_TIME, AnnotationState, Feedback, Submission
from worker.feedback.suggestions import Suggestion

YEAR_1, YEAR_9999 = "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00"
CAPTION = CaptionControl(from_name="caption", to_name="image", image_field="captioning")


def parse(body: dict[str, Any]) -> WebhookEvent:
    return parse_webhook(body["action"], body)


def parse_one(body: dict[str, Any]) -> AnnotationState:
    (state,) = parse(body).annotations
    return state


def judged(submission: Submission, suggestions: list[Suggestion]) -> Feedback:
    return judge(submission, find_proposal(submission, suggestions))


def make_suggestion(caption: str, version: str = "v1-00000000", *, withheld: bool = False) -> Suggestion:
    return Suggestion(
        project_id=6,
        task_id=15,
        control="caption",
        image_ref="/data/upload/6/9a3d7c6a-dog0.png",
        image_key="ab" * 32,
        caption=caption,
        model_version=version,
        score=0.5,
        withheld=withheld,
    )


@pytest.mark.parametrize(
    ("name", "caption", "origin"),
    [
        ("20_webhook_ANNOTATION_CREATED_accepted", "a brown dog stands on the grass under the sun", "prediction"),
        (
            "21_webhook_ANNOTATION_CREATED_corrected_edited",
            "a brown dog stands on the grass under the sun in summer",
            "prediction-changed",
        ),
        ("22_webhook_ANNOTATION_CREATED_corrected_retyped", "a brown puppy in a meadow", "manual"),
        (
            "23_webhook_ANNOTATION_CREATED_after_autosaved_draft",
            "a brown dog stands on the grass under the sun draft text",
            "prediction-changed",
        ),
        (
            "24_webhook_ANNOTATION_CREATED_resumed_draft",
            "caption by rec-v1 drafted",
            "prediction-changed",
        ),
        ("26_webhook_ANNOTATION_CREATED_manual", "second opinion", "manual"),
        (
            "30_webhook_ANNOTATION_UPDATED",
            "a brown dog stands on the grass under the sun again",
            "prediction-changed",
        ),
        ("31_webhook_ANNOTATION_UPDATED_ground_truth", "updated caption", "prediction"),
        ("32_webhook_ANNOTATION_UPDATED_unskipped", "unskipped", None),
        ("61_webhook_auth_by_headers", "x", "manual"),
        ("62_webhook_auth_in_url", "y", "manual"),
    ],
)
def test_a_submitted_caption_becomes_a_correction(name: str, caption: str, origin: str | None) -> None:
    body = load_payload(name)["body"]

    state = parse_one(body)

    (submission,) = state.submissions
    assert (submission.caption, submission.origin) == (caption, origin)
    assert (submission.project_id, submission.task_id) == (body["project"]["id"], body["task"]["id"])
    assert (submission.annotation_id, submission.annotation_uid) == (
        body["annotation"]["id"],
        body["annotation"]["unique_id"],
    )
    assert (submission.control, submission.image_ref) == ("caption", body["task"]["data"]["captioning"])
    assert (submission.annotator, submission.lead_time_s) == (1, body["annotation"]["lead_time"])
    assert submission.ground_truth is (name == "31_webhook_ANNOTATION_UPDATED_ground_truth")
    assert (state.emptied, state.is_whole, state.ignored) == ((), True, None)


@pytest.mark.parametrize(
    ("name", "annotation_id"),
    [
        ("27_webhook_ANNOTATION_CREATED_empty", 15),
        ("28_webhook_ANNOTATION_CREATED_empty_text", 16),
    ],
)
def test_an_emptied_annotation_holds_nothing(name: str, annotation_id: int) -> None:
    state = parse_one(load_payload(name)["body"])

    assert (state.annotation_id, state.submissions) == (annotation_id, ())
    assert (state.emptied, state.is_whole) == (("caption",), True)


def test_a_skip_says_who_skipped_which_suggestion() -> None:
    body = load_payload("25_webhook_ANNOTATION_CREATED_skipped")["body"]

    (skip,) = parse_one(body).submissions

    assert (skip.project_id, skip.task_id, skip.annotation_id, skip.control) == (7, 20, 8, "caption")
    assert skip.image_ref == body["task"]["data"]["captioning"]
    assert skip.caption is None
    assert skip.prefilled == "a brown dog stands on the grass under the sun"
    assert (skip.annotator, skip.lead_time_s) == (1, 4.333)
    assert skip.updated_at == "2026-11-21T03:18:14.134746+00:00"


@pytest.mark.parametrize("change", [{"origin": "prediction-changed"}, {"value": {"text": []}}])
def test_a_skip_of_a_field_that_somebody_changed_names_no_suggestion(change: dict[str, Any]) -> None:
    body = load_payload("25_webhook_ANNOTATION_CREATED_skipped")["body"]
    body["annotation"]["result"][0] |= change

    (skip,) = parse_one(body).submissions

    assert skip.prefilled is None


def test_only_what_was_skipped_is_a_skip() -> None:
    for name in ("20_webhook_ANNOTATION_CREATED_accepted", "27_webhook_ANNOTATION_CREATED_empty"):
        assert all(submission.caption is not None for submission in parse_one(load_payload(name)["body"]).submissions)


def test_a_skip_of_a_task_without_an_image_still_takes_back_what_was_corrected() -> None:
    body = load_payload("25_webhook_ANNOTATION_CREATED_skipped")["body"]
    body["task"] |= {"data": {"title": "no image"}}

    state = parse_one(body)

    assert (state.submissions, state.is_whole) == ((), True)
    assert state.ignored is not None


def test_annotations_made_from_predictions_come_as_a_list() -> None:
    body = load_payload("36_webhook_ANNOTATIONS_CREATED_bulk")["body"]

    event = parse(body)

    submissions = [submission for state in event.annotations for submission in state.submissions]
    assert [submission.task_id for submission in submissions] == [task["id"] for task in body["task"]]
    assert [submission.image_ref for submission in submissions] == [task["data"]["captioning"] for task in body["task"]]
    assert {submission.lead_time_s for submission in submissions} == {None}


@pytest.mark.parametrize(
    ("name", "annotation_ids"),
    [
        ("33_webhook_ANNOTATIONS_DELETED", (13,)),
        ("34_webhook_ANNOTATIONS_DELETED_cancel_skip", (23,)),
        ("35_webhook_ANNOTATIONS_DELETED_bulk", (18, 19)),
    ],
)
def test_deleted_annotations_are_named(name: str, annotation_ids: tuple[int, ...]) -> None:
    assert parse(load_payload(name)["body"]).deleted_annotations == annotation_ids


def test_deleted_tasks_are_named() -> None:
    assert parse(load_payload("44_webhook_TASKS_DELETED")["body"]).deleted_tasks == (43,)
    assert len(parse(load_payload("45_webhook_TASKS_DELETED_all")["body"]).deleted_tasks) == 7


@pytest.mark.parametrize("name", ["50_webhook_START_TRAINING_basic_auth", "51_webhook_START_TRAINING"])
def test_start_training_is_asked_for(name: str) -> None:
    assert parse(load_payload(name)["body"]).wants_training


@pytest.mark.parametrize("name", payload_names("4[01267]_*", "43_*", "60_*"))
def test_events_without_captions_change_nothing(name: str) -> None:
    body = load_payload(name)["body"]

    event = parse(body)

    project = body["project"]
    assert event == WebhookEvent(project_id=project["id"], title=project["title"], ignored="it holds no captions")


def test_an_unknown_action_is_ignored_whatever_it_holds() -> None:
    assert parse_webhook("LABEL_LINK_CREATED", {}) == WebhookEvent(project_id=0, ignored="unknown action")


def test_a_project_that_cannot_be_captioned_is_ignored_with_the_reason() -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    body["project"]["label_config"] = '<View><Text name="t" value="$x"/></View>'

    event = parse(body)

    assert event.annotations == ()
    assert event.ignored is not None
    assert 'found Text "t"' in event.ignored


def test_a_caption_of_a_renamed_text_area_is_kept_out_but_not_taken_for_emptied() -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    body["project"]["label_config"] = body["project"]["label_config"].replace('"caption"', '"cap2"')

    state = parse_one(body)

    assert (state.submissions, state.is_whole) == ((), False)
    assert state.ignored == "the labeling config has no caption TextArea caption"


def test_several_rows_of_one_text_area_are_lines_of_one_caption() -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    body["annotation"]["result"][0]["value"]["text"] = [" a dog ", "", "a brown dog"]

    (submission,) = parse_one(body).submissions

    assert submission.caption == "a dog\na brown dog"


def test_half_a_surrogate_pair_in_a_caption_is_replaced() -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    body["annotation"]["result"][0]["value"]["text"] = ["a dog \ud83d", "一只狗 🐕"]

    (submission,) = parse_one(body).submissions

    assert submission.caption == "a dog ?\n一只狗 🐕"


def test_regions_of_other_controls_are_left_alone() -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    box = {"id": "x", "from_name": "boxes", "to_name": "image", "type": "rectanglelabels", "value": {"x": 1}}
    body["annotation"]["result"].insert(0, box)

    assert len(parse_one(body).submissions) == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("project", None, "project must be an object, got null"),
        ("project.id", "6", "project.id must be a whole number, got '6'"),
        ("project.label_config", 5, "project.label_config must be a string, got 5"),
        ("annotation", "x", "annotation must be an object, got 'x'"),
        ("annotation.id", True, "annotation.id must be a whole number, got true or false"),
        ("annotation.result", {}, "annotation.result must be a list, got an object"),
        ("annotation.result.0", [], "annotation.result[0] must be an object, got a list"),
        ("annotation.result.0.value", 3, "annotation.result[0].value must be an object, got 3"),
        ("annotation.result.0.value.text", 3, "annotation.result[0].value.text must be a list, got 3"),
        ("annotation.result.0.value.text", [3], "annotation.result[0].value.text[0] must be a string, got 3"),
        ("annotation.was_cancelled", 1, "annotation.was_cancelled must be true or false, got 1"),
        ("annotation.updated_at", 1, "annotation.updated_at must be a string, got 1"),
        ("annotation.updated_at", "yesterday", f"annotation.updated_at must be {A_TIME}, got 'yesterday'"),
        ("annotation.updated_at", YEAR_1, f"annotation.updated_at must be {A_TIME}, got '{YEAR_1}'"),
        ("annotation.updated_at", YEAR_9999, f"annotation.updated_at must be {A_TIME}, got '{YEAR_9999}'"),
        ("annotation.created_at", "", f"annotation.created_at must be {A_TIME}, got ''"),
        ("annotation.unique_id", 7, "annotation.unique_id must be a string, got 7"),
        ("task", [], "task must be an object, got a list"),
        ("task.data", None, "task.data must be an object, got null"),
    ],
)
def test_a_wrong_type_is_named(path: str, value: Any, message: str) -> None:
    body: Any = copy.deepcopy(load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"])
    *steps, last = path.split(".")
    place = body
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    place[int(last) if last.isdigit() else last] = value

    with pytest.raises(RequestError) as caught:
        parse(body)

    assert str(caught.value) == message


@pytest.mark.parametrize("key", ["project", "annotation", "task"])
def test_a_missing_key_is_named(key: str) -> None:
    body = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    del body[key]

    with pytest.raises(RequestError, match=f"^{key} is missing"):
        parse(body)


def test_annotations_pulled_from_an_export_read_like_those_of_webhooks() -> None:
    tasks = load_payload("70_reply_export_json")["reply"]

    states = [parse_annotation(task["annotations"][0], task, 55, [CAPTION]) for task in tasks]

    assert [[submission.caption for submission in state.submissions] for state in states] == [
        ["rec-v1 caption of task 116"],
        [tasks[1]["annotations"][0]["result"][0]["value"]["text"][0]],
        [None],
    ]


def test_an_accepted_caption_finds_the_suggestion_that_was_seen_not_the_newest() -> None:
    (submission,) = parse_one(load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]).submissions
    shown = make_suggestion("a brown dog stands on the grass under the sun", "v1-00000000")

    feedback = judged(submission, [make_suggestion("a dog in the sun", "v2-00000000"), shown])

    assert (feedback.proposed, feedback.model_version) == (shown.caption, "v1-00000000")
    assert feedback.image_key == "ab" * 32
    assert feedback.outcome == "accepted"


def test_an_edited_caption_is_set_beside_the_newest_suggestion_even_without_parent_prediction() -> None:
    (submission,) = parse_one(load_payload("24_webhook_ANNOTATION_CREATED_resumed_draft")["body"]).submissions

    feedback = judged(submission, [make_suggestion("caption by rec-v1"), make_suggestion("older")])

    assert (feedback.proposed, feedback.model_version) == ("caption by rec-v1", "v1-00000000")
    assert feedback.outcome in {"edited", "rewritten"}


def test_the_hint_does_not_make_an_edit_of_an_accepted_text() -> None:
    """The web form's API may send any origin; the texts decide."""
    (submission,) = parse_one(load_payload("31_webhook_ANNOTATION_UPDATED_ground_truth")["body"]).submissions

    feedback = judged(submission, [make_suggestion("something else")])

    assert submission.origin == "prediction"
    assert feedback.proposed == "something else"
    assert feedback.outcome in {"edited", "rewritten"}


def test_without_any_known_suggestion_only_the_hint_is_left() -> None:
    (accepted,) = parse_one(load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]).submissions
    (written,) = parse_one(load_payload("26_webhook_ANNOTATION_CREATED_manual")["body"]).submissions

    assert judged(accepted, []).outcome == "accepted"
    assert judged(written, []).proposed is None


def test_a_withheld_suggestion_was_not_proposed_but_tells_which_image_it_is() -> None:
    (written,) = parse_one(load_payload("26_webhook_ANNOTATION_CREATED_manual")["body"]).submissions

    feedback = judged(written, [make_suggestion("a dog", withheld=True), make_suggestion("older", "v0-0")])

    assert (feedback.proposed, feedback.arm) == (None, "withheld")
    assert feedback.image_key == "ab" * 32


@pytest.mark.parametrize(
    "name", ["20_webhook_ANNOTATION_CREATED_accepted", "23_webhook_ANNOTATION_CREATED_after_autosaved_draft"]
)
def test_a_suggestion_of_before_was_proposed_when_label_studio_says_that_one_was(name: str) -> None:
    (submission,) = parse_one(load_payload(name)["body"]).submissions
    newest_first = [make_suggestion("a dog", "v2-0", withheld=True), make_suggestion("a brown dog", "v1-0")]

    feedback = judged(submission, newest_first)

    assert (feedback.proposed, feedback.model_version) == ("a brown dog", "v1-0")


OF_REGIONS = """<View><Image name="image" value="$captioning"/>
<RectangleLabels name="box" toName="image"><Label value="x"/></RectangleLabels>
<TextArea name="ocr" toName="image" perRegion="true"/><TextArea name="notes" toName="image"/>
<TextArea name="caption" toName="image"/></View>"""


def of_regions(**texts: str) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"])
    [region] = body["annotation"]["result"]
    body["annotation"]["result"] = [
        region | {"from_name": name, "id": name, "value": {"text": [text]}} for name, text in texts.items()
    ]
    body["project"]["label_config"] = OF_REGIONS
    return body


def test_texts_of_regions_and_remarks_are_not_captions() -> None:
    state = parse_one(of_regions(ocr="STOP", notes="blurred", caption="a sign"))

    assert [submission.caption for submission in state.submissions] == ["a sign"]
    assert state.is_whole


def test_a_withdrawn_caption_goes_although_texts_of_regions_stay() -> None:
    state = parse_one(of_regions(ocr="STOP", notes="blurred"))

    assert state.submissions == ()
    assert (state.emptied, state.is_whole, state.ignored) == (("caption",), True, None)


def test_a_text_of_a_field_that_the_config_no_longer_has_stays_recorded() -> None:
    assert not parse_one(of_regions(formerly="a sign")).is_whole
