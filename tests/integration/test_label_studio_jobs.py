"""Jobs that speak to Label Studio, on a real Redis and the fake Label Studio."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from backend import jobs
from backend.captioning.services import make_services
from backend.images.backfill import FIRST_DELAY_S, complete_features, retry_delay_s
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.public_address import PublicAddress
from backend.protocol.label_config import compact_image_ref
from backend.sync.connected_projects import REMOVED
from backend.sync.refresh import refresh as write_suggestions
from backend.sync.refresh_progress import RefreshProgress, read_refreshes
from model.errors import JobError, LabelStudioError
from model.runtime.onnx_encoder import OnnxEncoder
from model.vision.images import image_key
from tests.backend_client import BackendClient
from tests.factories import make_correction, make_image, make_suggestion, store_annotation
from tests.fake_label_studio import (
    LABEL_CONFIG,
    LEGACY_TOKEN,
    FakeLabelStudio,
    Reply,
    Request,
    refused,
)
from tests.image_server import ImageServer, png
from tests.payloads import load_payload
from tests.workplace import Workplace
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.left_projects import why_left
from worker.feedback.selection import SelectionLimits
from worker.feedback.suggestions import Suggestion, SuggestionLog
from worker.feedback.totals import read_ledger
from worker.feedback.waiting import claim
from worker.policy import is_withheld
from worker.queue.control import RetrainingControl
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, queue
from worker.queue.retraining import enqueue_retraining, enqueue_rollback_check
from worker.settings import Settings

BACKEND = "http://127.0.0.1:9090"
AT = "2025-01-31T12:00:00.000000Z"
LATER = "2025-01-31T13:00:00.000000Z"


def uploaded(number: int) -> str:
    """Return the path of the image that is uploaded for this task."""
    return f"/data/upload/1/{number:08x}-dog.jpg"


def data_url(color: str) -> str:
    return "data:image/png;base64," + base64.b64encode(png(color)).decode()


def annotation(number: int, caption: str, **changes: Any) -> dict[str, Any]:
    region = {"id": "r", "from_name": "caption", "to_name": "image", "type": "textarea", "origin": "manual"}
    values = {
        "id": number,
        "task": number,
        "project": 1,
        "completed_by": 1,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": AT,
        "updated_at": AT,
        "lead_time": 1.5,
        "parent_prediction": None,
        "result": [region | {"value": {"text": [caption]}}] if caption else [],
    }
    return values | changes


def task(number: int, *annotations: dict[str, Any], image: str | None = None, **changes: Any) -> dict[str, Any]:
    values = {
        "id": number,
        "project": 1,
        "data": {"captioning": image or uploaded(number)},
        "annotations": list(annotations),
        "predictions": [],
        "updated_at": max((annotation["updated_at"] for annotation in annotations), default=AT),
    }
    return values | changes


def prediction(number: int, caption: str, version: str) -> dict[str, Any]:
    region = {"id": "r", "from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": [caption]}}
    return {"id": number, "result": [region], "model_version": version, "score": 0.5}


def connect_projects(
    label_studio: FakeLabelStudio, projects: Mapping[int, int], label_config: str = LABEL_CONFIG
) -> None:
    """Add these projects. The value is the status of the reply about a project's backends; 200 shows one."""
    for project_id in projects:
        label_studio.add_project(id=project_id, label_config=label_config)
        if project_id != 1:
            label_studio.connect_backend(project_id, BACKEND)

    def answer(request: Request) -> Reply:
        status = projects[int(request.query["project"])]
        return label_studio.answer_by_itself(request) if status == 200 else refused(status, "no")

    label_studio.prepare("GET", "/api/ml", answer)


def tasks_read_whole(label_studio: FakeLabelStudio) -> int:
    """Return how many tasks were asked for with their annotations."""
    queries = [json.loads(request.query["query"]) for request in label_studio.requests_to("GET", "/api/tasks")]
    return sum(len(query["selectedItems"]["included"]) for query in queries if "selectedItems" in query)


def imports(label_studio: FakeLabelStudio) -> list[Request]:
    return label_studio.requests_to("POST", "/api/projects/1/import/predictions")


@pytest.fixture
def label_studio(label_studio: FakeLabelStudio, redis: Redis) -> FakeLabelStudio:
    """A Label Studio with an empty project that has our backend."""
    label_studio.add_project(id=1)
    label_studio.connect_ours(1, redis)
    return label_studio


@pytest.fixture
def configure(
    workplace: Workplace, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    def configure(**changes: str) -> None:
        ours = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": LEGACY_TOKEN}
        ours |= {"REFRESH_PREDICTIONS": "true", "ALLOWED_IMAGE_HOSTS": "127.0.0.1"}
        for name, value in workplace.environment(**ours | changes).items():
            monkeypatch.setenv(name, value)

    configure()
    return configure


# collect_corrections


@pytest.mark.usefixtures("configure")
def test_annotations_that_webhooks_missed_are_stored_beside_what_was_proposed(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.files[uploaded(1)] = png("red")
    shown = [prediction(5, "a cat", "v1"), prediction(6, "a dog", "v2")]
    label_studio.hold(task(1, annotation(1, "a red square", parent_prediction=5), predictions=shown))

    outcome = jobs.collect_corrections(1)

    [correction] = workplace.feedback.corrections(1)
    assert (correction.caption, correction.proposed, correction.model_version) == ("a red square", "a cat", "v1")
    assert correction.image_key == image_key(png("red"))
    assert workplace.features.get(image_key(png("red"))) is not None
    assert outcome == {"stored": 1, "removed": 0, "known": 0, "made": 1, "failed": 0, "set_aside": 0, "left": 0}


@pytest.mark.usefixtures("configure")
def test_collecting_twice_changes_nothing(workplace: Workplace, label_studio: FakeLabelStudio) -> None:
    label_studio.files[uploaded(1)] = png("red")
    label_studio.hold(task(1, annotation(1, "a red square")))
    jobs.collect_corrections(1)
    before = workplace.feedback.corrections(1)

    outcome = jobs.collect_corrections(1)

    assert outcome == {"stored": 0, "removed": 0, "known": 1, "made": 0, "failed": 0, "set_aside": 0, "left": 0}
    assert workplace.feedback.corrections(1) == before
    assert tasks_read_whole(label_studio) == 1


@pytest.mark.usefixtures("configure")
def test_only_tasks_that_changed_are_read_again(workplace: Workplace, label_studio: FakeLabelStudio) -> None:
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2, 3)))
    jobs.collect_corrections(1)
    another = annotation(4, "another", updated_at=LATER)
    label_studio.hold(
        task(1, annotation(1, "a square")),
        task(2, annotation(2, "a box", updated_at=LATER)),
        task(3, annotation(3, "a square"), another),
    )

    outcome = jobs.collect_corrections(1)

    assert outcome["stored"] == 2
    assert tasks_read_whole(label_studio) == 3 + 2
    captions = {correction.annotation_id: correction.caption for correction in workplace.feedback.corrections(1)}
    assert captions == {1: "a square", 2: "a box", 3: "a square", 4: "another"}


@pytest.mark.usefixtures("configure")
def test_another_labeling_config_sees_every_annotation_anew(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2)))
    jobs.collect_corrections(1)
    renamed = LABEL_CONFIG.replace('name="caption"', 'name="text"')
    label_studio.projects[1]["label_config"] = renamed

    jobs.collect_corrections(1)

    assert tasks_read_whole(label_studio) == 2 + 2


@pytest.mark.usefixtures("configure")
def test_a_redis_that_lost_everything_gets_every_annotation_again(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2)))
    jobs.collect_corrections(1)
    redis.delete("captioner:feedback:1")

    outcome = jobs.collect_corrections(1)

    assert outcome["stored"] == 2


@pytest.mark.usefixtures("configure")
def test_a_suggestion_we_remember_goes_before_what_label_studio_stored(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.hold(
        task(1, annotation(1, "a red square"), image=data_url("red"), predictions=[prediction(5, "a cat", "v1")])
    )
    key = image_key(png("red"))
    remembered = Suggestion(
        project_id=1,
        task_id=1,
        control="caption",
        image_ref=compact_image_ref(data_url("red")),
        image_key=key,
        caption="a dog",
        model_version="v2",
        score=0.5,
    )
    SuggestionLog(redis).remember([remembered])

    jobs.collect_corrections(1)

    [correction] = workplace.feedback.corrections(1)
    assert (correction.proposed, correction.model_version, correction.image_key) == ("a dog", "v2", key)
    assert workplace.features.get(key) is not None


@pytest.mark.usefixtures("configure")
def test_what_label_studio_holds_replaces_the_correction_also_when_its_clock_was_set_back(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    workplace.correct(range(1, 3), updated_at=AT)
    newer, older = annotation(1, "newer", updated_at=LATER), annotation(2, "older", updated_at="2025-01-01T00:00:00Z")
    label_studio.hold(task(1, newer), task(2, older))

    outcome = jobs.collect_corrections(1)

    captions = {correction.annotation_id: correction.caption for correction in workplace.feedback.corrections(1)}
    assert captions == {1: "newer", 2: "older"}
    assert (outcome["stored"], outcome["removed"]) == (2, 0)


@pytest.mark.usefixtures("configure")
def test_what_is_gone_skipped_or_emptied_in_label_studio_is_removed(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    workplace.correct(range(1, 6))
    skipped, emptied = annotation(3, "x", was_cancelled=True), annotation(4, "")
    elsewhere = annotation(5, "reused", project=2)
    label_studio.hold(task(2, annotation(2, "stays", updated_at=LATER)), task(3, skipped), task(4, emptied))
    label_studio.annotations[5] = elsewhere

    outcome = jobs.collect_corrections(1)

    assert [correction.annotation_id for correction in workplace.feedback.corrections(1)] == [2]
    assert outcome["removed"] == 4


@pytest.mark.usefixtures("configure")
def test_a_caption_that_comes_while_the_pull_finds_its_annotation_skipped_stays(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    [before] = workplace.correct(range(1, 2))
    skipped = annotation(1, "x", was_cancelled=True)
    taken_up = replace(before, caption="taken up again", updated_at=LATER)
    label_studio.hold(task(1, skipped))

    def answer(request: Request) -> Reply:
        reply = label_studio.answer_by_itself(request)
        if "selectedItems" in request.query["query"]:
            store_annotation(workplace.redis, taken_up)
            label_studio.hold(task(1, annotation(1, "taken up again", updated_at=LATER)))
        return reply

    label_studio.prepare("GET", "/api/tasks", answer)

    outcome = jobs.collect_corrections(1)

    assert [correction.caption for correction in workplace.feedback.corrections(1)] == ["taken up again"]
    assert outcome["removed"] == 0


@pytest.mark.usefixtures("configure")
def test_one_emptied_text_area_of_two_is_removed_and_the_other_stays(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    both = LABEL_CONFIG.replace("</View>", '<TextArea name="title" toName="image"/></View>')
    label_studio.projects[1]["label_config"] = both
    [correction] = workplace.correct(range(1, 2))
    both_filled = [replace(correction, updated_at=AT, control=control) for control in ("caption", "title")]
    store_annotation(workplace.redis, *both_filled)
    titled_no_more = annotation(1, "a square", updated_at=LATER)
    label_studio.hold(task(1, titled_no_more))

    outcome = jobs.collect_corrections(1)

    assert [(correction.control, correction.caption) for correction in workplace.feedback.corrections(1)] == [
        ("caption", "a square")
    ]
    assert outcome["removed"] == 1


@pytest.mark.usefixtures("configure")
def test_the_pull_and_the_webhooks_lead_to_the_same_ledger(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    remembered = [make_suggestion(task_id=number, withheld=number == 4) for number in range(1, 6)]
    annotations = [
        annotation(1, "a dog"),
        annotation(2, "a big dog", completed_by=2),
        annotation(3, "a dog", was_cancelled=True),
        annotation(4, "a fox in the snow"),
        annotation(5, "something else"),
    ]
    project = label_studio.projects[1]
    events = [
        {"action": "ANNOTATION_CREATED", "annotation": submitted, "task": task(submitted["id"]), "project": project}
        for submitted in annotations
    ]
    backend = BackendClient(workplace.settings)

    ledgers = []
    for order in ("pull", "webhooks", "webhooks, pull", "pull, webhooks backwards"):
        redis.flushdb()
        SuggestionLog(redis).remember(remembered)
        for step in order.split(", "):
            if step == "pull":
                label_studio.hold(*(task(submitted["id"], submitted) for submitted in annotations))
                jobs.collect_corrections(1)
            for event in reversed(events) if step.endswith("backwards") else events:
                assert step == "pull" or backend.post("/webhook", event).status_code < 300
        # Only a request has an id, and only an event tells the UUID.
        records = [replace(record, request_id=None, annotation_uid="") for record in FeedbackStore(redis).records(1)]
        ledgers.append((read_ledger(redis, 1), records))

    outcomes = {record.annotation_id: (record.outcome, record.arm) for record in ledgers[0][1]}
    assert outcomes == {
        1: ("accepted", "shown"),
        2: ("edited", "shown"),
        3: ("skipped", "shown"),
        4: ("written", "withheld"),
        5: ("rewritten", "shown"),
    }
    assert all(ledger == ledgers[0] for ledger in ledgers)


@pytest.mark.usefixtures("configure")
def test_what_is_gone_in_label_studio_leaves_the_ledger_and_a_skip_stays(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.hold(*(task(number, annotation(number, "a dog")) for number in range(1, 4)))
    jobs.collect_corrections(1)
    skip = annotation(2, "a dog", was_cancelled=True, updated_at=LATER)
    label_studio.hold(task(2, skip), task(3, annotation(3, "", updated_at=LATER), annotation(4, "a cat")))

    jobs.collect_corrections(1)

    outcomes = {record.annotation_id: record.outcome for record in FeedbackStore(redis).records(1)}
    assert outcomes == {2: "skipped", 4: "written"}
    label_studio.hold()

    jobs.collect_corrections(1)

    assert list(FeedbackStore(redis).records(1)) == []


@pytest.mark.usefixtures("configure")
def test_a_ledger_that_was_lost_is_made_again_from_label_studio(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    """Only Label Studio's predictions are left; the highest id is the one that was shown first."""
    shown = [prediction(5, "a cat", "v1"), prediction(6, "a dog", "v1")]
    taken = annotation(1, "a cat", parent_prediction=5)
    taken["result"][0]["origin"] = "prediction"
    label_studio.hold(task(1, taken, predictions=shown))
    jobs.collect_corrections(1)
    redis.delete("captioner:feedback:1", *redis.keys("captioner:ledger*"))

    jobs.collect_corrections(1)

    [record] = FeedbackStore(redis).records(1)
    assert (record.outcome, record.model_version, record.suggestion) == ("alternative", "v1", "a dog")
    assert read_ledger(redis, 1).versions["v1"].alternative == 1


@pytest.mark.usefixtures("configure")
def test_an_annotation_that_the_pages_missed_is_kept(workplace: Workplace, label_studio: FakeLabelStudio) -> None:
    workplace.correct(range(1, 2))
    label_studio.annotations[1] = annotation(1, "still there")

    outcome = jobs.collect_corrections(1)

    assert outcome["removed"] == 0
    assert len(workplace.feedback.corrections(1)) == 1


Encode = Callable[[OnnxEncoder, Sequence[NDArray[np.float32]]], NDArray[np.float32]]


def encode_overflowing_for(*colors: str) -> Encode:
    """Return an `OnnxEncoder.encode` whose features of these colors are too large for half precision."""
    encode = OnnxEncoder.encode

    def overflowing(encoder: OnnxEncoder, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        encoded = encode(encoder, pixels)
        bad_images = [encoder.spec.preprocessing(make_image(color)) for color in colors]
        for features, image in zip(encoded, pixels, strict=True):
            if any(np.array_equal(image, bad) for bad in bad_images):
                features.fill(math.inf)
        return encoded

    return overflowing


@pytest.mark.usefixtures("configure")
def test_an_image_that_cannot_be_had_does_not_stop_the_others(
    workplace: Workplace,
    label_studio: FakeLabelStudio,
    caplog: pytest.LogCaptureFixture,
) -> None:
    label_studio.files[uploaded(2)] = b"no image at all"
    label_studio.files[uploaded(3)] = png("blue")
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2, 3)))

    outcome = jobs.collect_corrections(1)

    assert (outcome["made"], outcome["failed"]) == (1, 2)
    assert "correction without image project=1 task=1" in caplog.text
    assert "not an image" in caplog.text


@pytest.mark.usefixtures("configure")
def test_the_newest_images_come_first(label_studio: FakeLabelStudio, image_server: ImageServer) -> None:
    times = {1: LATER, 2: AT, 3: LATER.replace("T13", "T14")}
    label_studio.hold(
        *[
            task(number, annotation(number, "a square", updated_at=time), image=image_server.show(f"/{number}.png"))
            for number, time in times.items()
        ]
    )

    jobs.collect_corrections(1)

    assert [request.path for request in image_server.requests] == ["/3.png", "/1.png", "/2.png"]


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("is_due", [False, True])
def test_an_image_that_failed_is_passed_over_until_it_is_due_again(
    label_studio: FakeLabelStudio, image_server: ImageServer, redis: Redis, is_due: bool
) -> None:
    label_studio.hold(task(1, annotation(1, "a square"), image=f"{image_server.url}/1.png"))

    first = jobs.collect_corrections(1)
    image_server.show("/1.png")
    if is_due:
        [record] = redis.keys("captioner:failed-image:1:*")
        failures, next_try = json.loads(redis.get(record) or "")
        redis.set(record, json.dumps([failures, next_try - FIRST_DELAY_S]))  # its delay is over
    second = jobs.collect_corrections(1)

    assert (first["failed"], first["left"]) == (1, 0)
    assert (second["made"], second["left"]) == ((1, 0) if is_due else (0, 1))


def test_an_image_is_tried_ever_more_rarely_but_once_a_day() -> None:
    assert [retry_delay_s(failures) for failures in (1, 2, 3, 9, 10, 5000)] == [300, 600, 1200, 76_800, 86_400, 86_400]


@pytest.mark.usefixtures("configure")
def test_an_image_that_label_studio_refuses_is_tried_each_time(label_studio: FakeLabelStudio) -> None:
    label_studio.prepare("GET", uploaded(1), refused(401, "Invalid token."), Reply(body=png("red")))
    label_studio.hold(task(1, annotation(1, "a square")))

    first, second = jobs.collect_corrections(1), jobs.collect_corrections(1)

    assert (first["failed"], second["made"]) == (1, 1)


def test_of_a_large_project_only_the_images_are_looked_for_that_a_training_uses(
    workplace: Workplace, image_server: ImageServer
) -> None:
    limits = SelectionLimits(recent=3, remembered=2)
    address = image_server.show("/1.png", "green")
    workplace.correct(range(1, 9))
    store_annotation(workplace.redis, make_correction(annotation_id=100, image_key=None, image_ref=address))

    settings = workplace.settings.model_copy(update={"allowed_image_hosts": "127.0.0.1"})
    report = complete_features(None, workplace.redis, settings, 1, lambda done, total: None, limits)

    assert (report.known, report.made) == (3 + 2, 1)


@pytest.mark.usefixtures("configure")
def test_an_image_on_which_the_encoder_fails_is_set_aside_and_the_others_are_made(
    workplace: Workplace, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, color in enumerate(("red", "green", "blue"), start=1):
        label_studio.files[uploaded(number)] = png(color)
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2, 3)))
    overflowing = encode_overflowing_for("green")
    monkeypatch.setattr(OnnxEncoder, "encode", overflowing)

    first, second = jobs.collect_corrections(1), jobs.collect_corrections(1)

    assert (first["made"], first["set_aside"], second["known"], second["set_aside"]) == (2, 1, 2, 1)
    assert workplace.feedback.excluded(1) == {
        "2/caption": "its image cannot be encoded: its features have numbers that half precision cannot hold"
    }


@pytest.mark.usefixtures("configure")
def test_an_encoder_that_fails_on_every_image_sets_none_aside(
    workplace: Workplace, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.files[uploaded(1)] = png("red")
    label_studio.hold(task(1, annotation(1, "a square")))
    monkeypatch.setattr(OnnxEncoder, "encode", encode_overflowing_for("red", "grey"))

    with pytest.raises(ArithmeticError, match="half precision"):
        jobs.collect_corrections(1)

    assert workplace.feedback.excluded(1) == {}


@pytest.mark.usefixtures("configure")
def test_without_label_studio_features_are_still_made_and_the_job_fails_with_the_reason(
    workplace: Workplace, label_studio: FakeLabelStudio, image_server: ImageServer
) -> None:
    label_studio.prepare("GET", "/api/projects/1/", refused(502, "Bad Gateway"))
    address = image_server.show("/1.png", "green")
    store_annotation(workplace.redis, make_correction(image_ref=address))

    with pytest.raises(LabelStudioError, match="502"):
        jobs.collect_corrections(1)

    assert workplace.features.get(image_key(png("green"))) is not None


def test_without_an_api_key_features_are_made_and_nothing_is_pulled(
    workplace: Workplace, configure: Callable[..., None], image_server: ImageServer
) -> None:
    configure(LABEL_STUDIO_API_KEY="")
    address = image_server.show("/1.png", "green")
    store_annotation(workplace.redis, make_correction(image_ref=address))

    outcome = jobs.collect_corrections(1)

    assert outcome == {"known": 0, "made": 1, "failed": 0, "set_aside": 0, "left": 0}


@pytest.mark.usefixtures("configure")
def test_pulled_corrections_start_a_retraining_when_they_are_enough(
    workplace: Workplace, label_studio: FakeLabelStudio, configure: Callable[..., None], redis: Redis
) -> None:
    configure(RETRAIN_AFTER="2", RETRAIN_IDLE_S="0")
    label_studio.hold(*(task(number, annotation(number, "a square"), image=data_url("red")) for number in (1, 2)))

    jobs.collect_corrections(1)

    assert redis.hget("captioner:retraining:1", "waiting") is not None


# pull_projects


@pytest.mark.usefixtures("configure")
def test_every_connected_project_is_pulled_also_one_that_never_had_a_correction(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    workplace.correct(range(7, 8), project_id=2, task_id=7, updated_at=AT)
    connect_projects(label_studio, {1: 200, 2: 200})
    label_studio.hold(task(1, annotation(1, "a square")))

    outcome = jobs.pull_projects()

    assert outcome == {"changed": 2}
    assert [correction.caption for correction in workplace.feedback.corrections(1)] == ["a square"]
    assert workplace.feedback.corrections(2) == []


@pytest.mark.parametrize("status", [404, 403, 500])
@pytest.mark.usefixtures("configure")
def test_a_project_that_cannot_be_pulled_or_was_just_deleted_keeps_no_other_from_it(
    workplace: Workplace, label_studio: FakeLabelStudio, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    connect_projects(label_studio, {1: status, 2: 200})
    label_studio.hold(task(2, annotation(2, "a square"), project=2))

    outcome = jobs.pull_projects()

    assert outcome == {"failed": 1, "changed": 1}
    assert len(workplace.feedback.corrections(2)) == 1
    assert f"annotations not pulled project=1 problem=LabelStudioRefusalError('Label Studio answered {status}" in (
        caplog.text
    )


@pytest.mark.usefixtures("configure")
def test_one_odd_reply_keeps_no_other_project_from_being_pulled(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    connect_projects(label_studio, {1: 200, 2: 200})
    odd = {"id": 3, "result": 7, "model_version": "v1", "score": None}
    label_studio.hold(
        task(1, annotation(1, "a square"), predictions=[odd]),
        task(2, annotation(2, "a square"), project=2),
    )

    assert jobs.pull_projects() == {"failed": 1, "changed": 1}
    assert len(workplace.feedback.corrections(2)) == 1


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("updated_at", ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", 7, None])
def test_an_annotation_at_an_impossible_time_harms_no_other_annotation_and_no_other_project(
    workplace: Workplace, label_studio: FakeLabelStudio, updated_at: object
) -> None:
    connect_projects(label_studio, {1: 200, 2: 200})
    label_studio.hold(
        task(1, annotation(1, "a square"), annotation(3, "a circle"), updated_at=AT),
        task(2, annotation(2, "a square"), project=2),
    )
    label_studio.annotations[1]["updated_at"] = updated_at

    assert jobs.pull_projects() == {"changed": 2}
    assert [correction.caption for correction in workplace.feedback.corrections(1)] == ["a circle"]
    assert len(workplace.feedback.corrections(2)) == 1


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("version", ["v1", "other"])
def test_a_project_of_another_backend_is_never_touched(
    workplace: Workplace, label_studio: FakeLabelStudio, version: str
) -> None:
    label_studio.setup_answers[BACKEND] = lambda _: version
    label_studio.hold(task(1, annotation(1, "a square")))

    assert jobs.pull_projects() == {"foreign": 1}
    assert jobs.collect_corrections(1) == {"known": 0, "made": 0, "failed": 0, "set_aside": 0, "left": 0}
    assert jobs.refresh_predictions(1, version)["stopped"] == REMOVED
    assert jobs.refresh_look_alikes(1)["stopped"] == REMOVED
    with pytest.raises(LabelStudioError, match="no model that leads here"):
        jobs.connect_project(1)

    assert workplace.feedback.known_projects() == []
    assert label_studio.requests_to("GET", "/api/tasks") == []
    assert imports(label_studio) == []


@pytest.mark.usefixtures("configure")
def test_a_project_whose_model_was_removed_is_left_alone_and_its_corrections_stay(
    workplace: Workplace, label_studio: FakeLabelStudio, make_backend: Callable[..., BackendClient]
) -> None:
    label_studio.hold(task(1, annotation(1, "a red square")))
    assert jobs.pull_projects() == {"changed": 1}
    label_studio.backends.clear()
    label_studio.hold(task(1, annotation(1, "a red square")), task(2, annotation(2, "a green square")))

    assert jobs.pull_projects() == {"foreign": 1}

    assert workplace.feedback.projects() == []
    assert [correction.caption for correction in workplace.feedback.corrections(1)] == ["a red square"]
    with pytest.raises(JobError, match="no model of the project in Label Studio leads to this captioner any more"):
        enqueue_retraining(workplace.redis, workplace.settings, 1, "a person asked")
    event = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
    assert make_backend().post("/webhook", event | {"project": {"id": 1, "label_config": LABEL_CONFIG}}).json == {
        "changed": 0
    }

    label_studio.connect_backend(1, BACKEND)

    assert jobs.pull_projects() == {"changed": 1}
    assert workplace.feedback.projects() == [1]
    assert len(workplace.feedback.corrections(1)) == 2


@pytest.mark.usefixtures("configure")
def test_a_backend_that_moved_keeps_its_projects(workplace: Workplace, label_studio: FakeLabelStudio) -> None:
    label_studio.hold(task(1, annotation(1, "a red square")))
    assert jobs.pull_projects() == {"changed": 1}
    [backend] = label_studio.backends.values()
    backend["url"] = "http://127.0.0.1:9191"
    backend["readable_state"] = "Disconnected"

    assert jobs.pull_projects() == {"failed": 1}  # it does not answer yet, so it may be ours or not
    assert workplace.feedback.projects() == [1]

    backend["readable_state"] = "Connected"
    label_studio.setup_answers["http://127.0.0.1:9191"] = label_studio.setup_answers[BACKEND]

    assert jobs.pull_projects() == {"unchanged": 1}


@pytest.mark.usefixtures("configure")
def test_a_backend_that_cannot_prove_itself_for_a_moment_does_not_lose_its_projects(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.hold(task(1, annotation(1, "a red square")))
    assert jobs.pull_projects() == {"changed": 1}
    answer = label_studio.setup_answers[BACKEND]
    label_studio.setup_answers[BACKEND] = lambda _: "v1"  # it could not read Redis
    redis.hset("captioner:proved:1", BACKEND, "0")  # the last proof is long ago

    assert jobs.pull_projects() == {"failed": 1}
    assert workplace.feedback.projects() == [1]

    label_studio.setup_answers[BACKEND] = answer
    assert jobs.pull_projects() == {"unchanged": 1}


@pytest.mark.usefixtures("configure")
def test_a_project_that_was_deleted_leaves(workplace: Workplace, label_studio: FakeLabelStudio) -> None:
    label_studio.hold(task(1, annotation(1, "a red square")))
    assert jobs.pull_projects() == {"changed": 1}
    label_studio.projects.clear()

    assert jobs.pull_projects() == {}

    assert workplace.feedback.projects() == []
    assert "deleted in Label Studio" in str(why_left(workplace.redis, 1))


@pytest.mark.usefixtures("configure")
def test_a_project_that_was_made_anew_with_the_same_id_is_pulled_into_an_empty_store(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.projects[1]["created_at"] = "2026-01-01T00:00:00.000000Z"
    label_studio.hold(task(1, annotation(1, "a red square")), task(2, annotation(2, "a green square")))
    assert jobs.pull_projects() == {"changed": 1}
    label_studio.projects[1]["created_at"] = "2026-02-01T00:00:00.000000Z"
    label_studio.hold(task(1, annotation(1, "a caption of the new project")))

    assert jobs.pull_projects() == {"changed": 1}

    assert [correction.caption for correction in workplace.feedback.corrections(1)] == ["a caption of the new project"]


@pytest.mark.usefixtures("configure")
def test_a_proof_leaves_the_version_in_label_studio_as_it_was(label_studio: FakeLabelStudio) -> None:
    assert jobs.pull_projects() == {"unchanged": 1}

    assert [backend["model_version"] for backend in label_studio.backends.values()] == ["v1"]


@pytest.mark.usefixtures("configure")
def test_a_project_without_captions_is_not_even_asked_for_its_backends(label_studio: FakeLabelStudio) -> None:
    connect_projects(label_studio, {1: 200}, label_config='<View><Image name="image" value="$captioning"/></View>')

    assert jobs.pull_projects() == {"foreign": 1}
    assert label_studio.requests_to("GET", "/api/ml") == []


@pytest.mark.usefixtures("configure")
def test_pulling_projects_makes_no_features_and_reads_nothing_twice(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    connect_projects(label_studio, {1: 200})
    label_studio.hold(task(1, annotation(1, "a red square")))  # whose image cannot be had

    outcomes = [jobs.pull_projects(), jobs.pull_projects()]

    assert outcomes == [{"changed": 1}, {"unchanged": 1}]
    assert tasks_read_whole(label_studio) == 1
    assert not any(request.path.startswith("/data/upload") for request in label_studio.requests)


@pytest.mark.usefixtures("workplace")
def test_what_was_pulled_from_a_project_starts_its_retraining(
    label_studio: FakeLabelStudio, configure: Callable[..., None], redis: Redis
) -> None:
    configure(RETRAIN_AFTER="2", RETRAIN_IDLE_S="0")
    connect_projects(label_studio, {1: 200, 2: 200})
    label_studio.hold(
        task(1, annotation(1, "a square")),
        *(task(number, annotation(number, "a square"), project=2) for number in (2, 3)),
    )

    jobs.pull_projects()

    assert redis.hget("captioner:retraining:1", "waiting") is None
    assert redis.hget("captioner:retraining:2", "waiting") is not None


@pytest.mark.usefixtures("workplace")
def test_what_a_training_took_and_did_not_learn_is_trained_by_a_later_pull(
    workplace: Workplace, label_studio: FakeLabelStudio, configure: Callable[..., None], redis: Redis
) -> None:
    configure(RETRAIN_AFTER="2", RETRAIN_IDLE_S="0")
    connect_projects(label_studio, {1: 200})
    label_studio.hold(*(task(number, annotation(number, "a square")) for number in (1, 2)))
    jobs.pull_projects()
    redis.delete("captioner:retraining:1")  # as after a training that failed long ago
    claim(workplace.redis, 1)

    assert jobs.pull_projects() == {"unchanged": 1}

    assert redis.hget("captioner:retraining:1", "waiting") is not None


@pytest.fixture
def worse(workplace: Workplace, label_studio: FakeLabelStudio) -> str:
    """A published version that is accepted 10 times of 40; the earlier version was accepted 30 times of 40."""
    before = workplace.bundle.version
    publish = workplace.registry.publish
    published = publish(1, workplace.bundle.captioner(), parent=before, metrics={}, corrections=[], decision="better")
    connect_projects(label_studio, {1: 200})
    judged = [(before, True)] * 30 + [(before, False)] * 10
    judged += [(published.name, True)] * 10 + [(published.name, False)] * 30
    label_studio.hold(
        *[
            task(
                number,
                annotation(number, "a dog" if accepted else "a cat"),
                predictions=[prediction(number, "a dog", name)],
            )
            for number, (name, accepted) in enumerate(judged, start=1)
        ]
    )
    return published.name


def run_rollback_check(redis: Redis) -> Any:
    """Run the rollback check of project 1 in this process."""
    check = Job.fetch("rollback-check-1", connection=redis, serializer=JSONSerializer)
    assert check.id in queue(redis, RETRAIN_QUEUE).job_ids
    assert list(check.args) == [1]
    return check.func(*check.args)


def test_one_rollback_check_waits_however_often_is_pulled(redis: Redis) -> None:
    for _ in range(3):
        enqueue_rollback_check(redis, 1)

    assert queue(redis, RETRAIN_QUEUE).job_ids == ["rollback-check-1"]


@pytest.mark.usefixtures("configure", "worse")
def test_a_version_that_is_accepted_less_gives_its_place_back_also_while_its_project_is_paused(
    workplace: Workplace, redis: Redis
) -> None:
    RetrainingControl(redis, workplace.settings).pause(1)

    jobs.pull_projects()

    assert run_rollback_check(redis) == workplace.bundle.version
    assert workplace.registry.serving(1) == workplace.bundle.version
    [refresh] = queue(redis, LABEL_STUDIO_QUEUE).jobs
    assert refresh.args == [1, workplace.bundle.version]
    assert redis.hget("captioner:retraining:1", "running") is None


@pytest.mark.usefixtures("configure", "worse")
def test_a_project_that_has_been_quiet_for_hours_is_not_compared_again_at_each_pull(redis: Redis) -> None:
    jobs.pull_projects()
    queue(redis, RETRAIN_QUEUE).empty()
    seconds, _ = redis.time()
    redis.hset("captioner:changes:1", "last", (seconds - 2 * 3600) * 1_000_000)

    jobs.pull_projects()

    assert "rollback-check-1" not in queue(redis, RETRAIN_QUEUE).job_ids


@pytest.mark.usefixtures("configure")
def test_a_version_that_is_being_trained_from_serves_until_the_training_has_ended(
    workplace: Workplace, redis: Redis, worse: str
) -> None:
    running = queue(redis, RETRAIN_QUEUE).enqueue_call("worker.jobs.retrain", args=[1, "a test"])
    redis.hset("captioner:retraining:1", "running", running.id)

    assert jobs.pull_projects() == {"changed": 1}

    assert run_rollback_check(redis) is None
    assert workplace.registry.serving(1) == worse


@pytest.mark.parametrize("status", [200, 502])
@pytest.mark.usefixtures("configure")
def test_the_next_pull_follows_also_when_label_studio_does_not_answer(
    workplace: Workplace, label_studio: FakeLabelStudio, status: int, redis: Redis
) -> None:
    if status == 502:
        label_studio.prepare("GET", "/api/projects/", refused(502, "Bad Gateway"))

    with pytest.raises(LabelStudioError, match="502") if status == 502 else nullcontext():
        jobs.pull_projects()

    [scheduled] = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_job_ids()
    assert workplace.job(scheduled).func_name == "backend.jobs.pull_projects"


def test_without_an_api_key_no_project_is_pulled_and_none_will_be(
    configure: Callable[..., None], redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    configure(LABEL_STUDIO_API_KEY="")

    assert jobs.pull_projects() == {}

    assert "annotations not pulled reason=LABEL_STUDIO_API_KEY is not set" in caplog.text
    assert queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.count == 0


# refresh_predictions


def refresh(workplace: Workplace) -> dict[str, Any]:
    return jobs.refresh_predictions(1, workplace.bundle.version)


@pytest.mark.usefixtures("configure")
def test_tasks_that_show_another_version_get_a_new_prediction(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    version = workplace.bundle.version
    label_studio.hold(
        task(1, image=data_url("red")),
        task(2, image=data_url("green"), predictions=[prediction(1, "old", "v0")]),
        task(3, image=data_url("blue"), predictions=[prediction(2, "same", version)]),
        # Quick View shows the newest prediction, so after a rollback the version must be the newest again.
        task(4, image=data_url("red"), predictions=[prediction(3, "same", version), prediction(4, "new", "v9")]),
        task(5, annotation(5, "done"), image=data_url("red")),
    )

    report = refresh(workplace)

    [request] = imports(label_studio)
    sent = {prediction["task"]: prediction for prediction in request.body}
    assert report == {"refreshed": 3, "current": 1, "failed": 0, "stopped": None, "rest_after": None}
    assert sorted(sent) == [1, 2, 4]
    assert {prediction["model_version"] for prediction in sent.values()} == {version}
    [suggestion] = SuggestionLog(redis).find(1, 1, "caption", compact_image_ref(data_url("red")))
    assert sent[1]["result"][0]["value"]["text"] == [suggestion.caption]


@pytest.mark.usefixtures("configure")
def test_a_task_that_shows_another_image_now_gets_a_new_prediction(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.hold(task(1, image=data_url("red")), task(2, image=data_url("green")))
    refresh(workplace)
    label_studio.tasks[1]["data"] = {"captioning": data_url("blue")}

    report = refresh(workplace)

    assert (report["refreshed"], report["current"]) == (1, 1)


@pytest.mark.parametrize("is_of_look_alikes", [False, True])
@pytest.mark.usefixtures("configure")
def test_where_the_owner_chose_imported_predictions_ours_are_not_written(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis, is_of_look_alikes: bool
) -> None:
    label_studio.hold(task(1, image=data_url("red"), predictions=[prediction(1, "imported", "gpt-caps")]))
    label_studio.projects[1]["model_version"] = "gpt-caps"

    report = jobs.refresh_look_alikes(1) if is_of_look_alikes else refresh(workplace)

    assert report["stopped"] == "the owner chose the predictions of 'gpt-caps' in Settings > Annotation"
    assert imports(label_studio) == []
    if not is_of_look_alikes:
        assert read_refreshes(redis, [1])[1].stopped == report["stopped"]


@pytest.mark.usefixtures("configure")
def test_a_task_without_an_image_does_not_cost_the_others_their_predictions(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.hold(task(1, image="data:image/png;base64,AAAA"), task(2, image=data_url("red")))

    report = refresh(workplace)

    assert (report["refreshed"], report["failed"]) == (1, 1)


@pytest.mark.usefixtures("configure")
def test_a_job_knows_the_public_address_that_setup_told(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    label_studio.files["/data/upload/1/a.png"] = png("red")
    label_studio.hold(task(1, image="https://labels.invalid/ls/data/upload/1/a.png"))
    PublicAddress(redis).note("https://labels.invalid/ls")

    report = refresh(workplace)

    assert (report["refreshed"], report["failed"]) == (1, 0)


def test_tasks_with_hidden_suggestions_get_an_empty_prediction_once(
    workplace: Workplace, configure: Callable[..., None], label_studio: FakeLabelStudio
) -> None:
    configure(HIDE_SUGGESTIONS_SHARE="50")
    colors = ("red", "green", "blue", "black", "white")
    label_studio.hold(*(task(number, image=data_url(color)) for number, color in enumerate(colors, start=1)))

    report = refresh(workplace)

    [request] = imports(label_studio)
    sent = {prediction["task"]: prediction for prediction in request.body}
    hidden = {number for number, color in enumerate(colors, start=1) if is_withheld(image_key(png(color)), 50)}
    assert (report["refreshed"], report["failed"]) == (5, 0)
    assert 0 < len(hidden) < 5
    assert {number for number, prediction in sent.items() if not prediction["result"]} == hidden
    assert {prediction["model_version"] for prediction in sent.values()} == {workplace.bundle.version}
    again = refresh(workplace)

    assert (again["refreshed"], again["current"]) == (0, 5)


@pytest.mark.usefixtures("configure")
def test_a_long_refresh_goes_on_in_another_job_so_that_what_waits_gets_its_turn(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    settings = Settings.from_env()
    client = LabelStudioClient.from_settings(settings)
    assert client is not None
    version = workplace.bundle.version
    label_studio.hold(*(task(number, image=data_url("red")) for number in range(1, 31)))

    first = write_suggestions(client, make_services(settings), 1, version, 0, lambda done, total: None, turn_s=0)

    assert (first.refreshed, first.stopped) == (25, "the rest follows")
    [scheduled] = queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_job_ids()
    rest = workplace.job(scheduled)
    assert (rest.func_name, rest.retries_left) == ("backend.jobs.refresh_predictions", 4)
    second = jobs.refresh_predictions(*rest.args)
    assert (second["refreshed"], second["stopped"]) == (5, None)
    assert queue(redis, LABEL_STUDIO_QUEUE).scheduled_job_registry.get_job_ids() == [scheduled]
    sent = [prediction["task"] for request in imports(label_studio) for prediction in request.body]
    assert sent == list(range(1, 31))


@pytest.mark.usefixtures("configure")
def test_the_progress_of_a_refresh_counts_all_of_its_turns(
    workplace: Workplace, label_studio: FakeLabelStudio, redis: Redis
) -> None:
    settings, version = Settings.from_env(), workplace.bundle.version
    client = LabelStudioClient.from_settings(settings)
    assert client is not None
    current = [task(1, image=data_url("red"), predictions=[prediction(1, "same", version)])]
    broken = [task(2, image="data:image/png;base64,AAAA")]
    label_studio.hold(*current, *broken, *(task(number, image=data_url("red")) for number in range(3, 61)))
    totals: set[int] = set()

    def progress() -> RefreshProgress:
        return read_refreshes(redis, [1])[1]

    def take_turn(after_id: int, *, fails: bool = False) -> int | None:
        def look(done: int, _total: int) -> None:
            totals.update(refresh.total for refresh in read_refreshes(redis, [1]).values())
            if fails and done:
                raise LabelStudioError("Label Studio does not answer")

        return write_suggestions(client, make_services(settings), 1, version, after_id, look, turn_s=0).rest_after

    second = take_turn(0)
    assert (second, progress().standing, progress().done, progress().total) == (25, "at work", 25, 60)
    with pytest.raises(LabelStudioError):
        take_turn(25, fails=True)
    assert (progress().standing, progress().stopped) == ("stopped", "Label Studio does not answer")
    take_turn(25)
    assert (progress().done, progress().refreshed) == (50, 23)
    take_turn(50)

    assert (progress().standing, progress().done, progress().total) == ("complete", 60, 60)
    assert (progress().refreshed, progress().failed) == (33, 1)
    assert progress().left_s is None
    assert totals == {60}


@pytest.mark.usefixtures("configure")
def test_nothing_is_written_for_a_version_that_no_longer_serves(
    workplace: Workplace, label_studio: FakeLabelStudio
) -> None:
    label_studio.hold(task(1, image=data_url("red")))

    report = jobs.refresh_predictions(1, "v1-00000000")

    assert report["stopped"] == "v1-00000000 no longer serves"
    assert imports(label_studio) == []


def test_refreshing_can_be_switched_off(
    workplace: Workplace, configure: Callable[..., None], label_studio: FakeLabelStudio
) -> None:
    configure(REFRESH_PREDICTIONS="false")
    label_studio.hold(task(1, image=data_url("red")))

    report = refresh(workplace)

    assert report["stopped"] == "REFRESH_PREDICTIONS is false"
    assert imports(label_studio) == []


def test_without_an_api_key_nothing_is_refreshed(workplace: Workplace, configure: Callable[..., None]) -> None:
    configure(LABEL_STUDIO_API_KEY="")

    assert refresh(workplace)["stopped"] == "LABEL_STUDIO_API_KEY is not set"


# connect_project


def test_the_webhook_of_a_new_connection_gets_the_backends_login(
    workplace: Workplace, label_studio: FakeLabelStudio, configure: Callable[..., None], redis: Redis
) -> None:
    configure(BASIC_AUTH_USER="label", BASIC_AUTH_PASS="studio")
    label_studio.webhooks[1]["headers"] = {"X-Team": "a"}

    outcome = jobs.connect_project(1)

    assert outcome == {"mended": True}
    assert label_studio.webhooks[1]["headers"] == {"X-Team": "a", "Authorization": "Basic bGFiZWw6c3R1ZGlv"}
    assert [job.func_name for job in queue(redis, LABEL_STUDIO_QUEUE).jobs] == ["backend.jobs.collect_corrections"]


@pytest.mark.usefixtures("configure")
def test_an_open_backends_webhook_is_left_alone(workplace: Workplace, label_studio: FakeLabelStudio) -> None:

    assert jobs.connect_project(1) == {"mended": False}


@pytest.mark.usefixtures("configure")
def test_a_connection_that_label_studio_has_not_stored_yet_is_tried_again(label_studio: FakeLabelStudio) -> None:
    label_studio.backends.clear()

    with pytest.raises(LabelStudioError, match="has no model that leads here yet"):
        jobs.connect_project(1)


def test_a_webhook_that_somebody_switched_off_is_left_to_a_person(
    label_studio: FakeLabelStudio, configure: Callable[..., None]
) -> None:
    configure(BASIC_AUTH_USER="label", BASIC_AUTH_PASS="studio")
    label_studio.webhooks[1]["is_active"] = False

    with pytest.raises(LabelStudioError, match="is switched off: captioner doctor --repair"):
        jobs.connect_project(1)
