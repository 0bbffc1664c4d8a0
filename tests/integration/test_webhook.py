"""/webhook: every recorded event of Label Studio is stored as it should be, durable before the answer."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.protocol.headers import WEBHOOK_HEADER
from tests.backend_client import BackendClient, basic_auth
from tests.payloads import load_payload, payload_names
from tests.redis_server import RedisServer
from worker.feedback.record import A_TIME
from worker.feedback.suggestions import Suggestion
from worker.feedback.totals import read_ledger
from worker.queue.job_state import RETRAIN_QUEUE, queue

RECORDED_LOGIN = ("mluser", "DUMMY-PASSWORD")
ACCEPTED = "20_webhook_ANNOTATION_CREATED_accepted"


def remember_suggestion(backend: BackendClient, name: str, caption: str, version: str = "v1-0a1b2c3d") -> None:
    """Let the backend have suggested a caption for the task of a recorded event."""
    body = load_payload(name)["body"]
    suggestion = Suggestion(
        project_id=body["project"]["id"],
        task_id=body["task"]["id"],
        control="caption",
        image_ref=body["task"]["data"]["captioning"],
        image_key="ab" * 32,
        caption=caption,
        model_version=version,
        score=0.5,
    )
    backend.services.suggestions.remember([suggestion])


@pytest.mark.parametrize(
    ("name", "proposed", "is_edit"),
    [
        (ACCEPTED, "a brown dog stands on the grass under the sun", False),
        ("21_webhook_ANNOTATION_CREATED_corrected_edited", "a brown dog stands on the grass under the sun", True),
        ("22_webhook_ANNOTATION_CREATED_corrected_retyped", "a brown dog stands on the grass under the sun", True),
        ("23_webhook_ANNOTATION_CREATED_after_autosaved_draft", "a brown dog stands on the grass", True),
        ("24_webhook_ANNOTATION_CREATED_resumed_draft", "caption by rec-v1", True),
        ("30_webhook_ANNOTATION_UPDATED", "a brown dog stands on the grass under the sun", True),
        ("31_webhook_ANNOTATION_UPDATED_ground_truth", "a dog", True),
    ],
)
def test_a_submitted_caption_is_stored_beside_what_was_proposed(
    backend: BackendClient, name: str, proposed: str, is_edit: bool
) -> None:
    body = load_payload(name)["body"]
    remember_suggestion(backend, name, proposed)

    response = backend.replay(name)

    assert response.status_code == 201
    assert response.get_json() == {"changed": 1}
    (correction,) = backend.corrections(body["project"]["id"])
    assert correction.caption == body["annotation"]["result"][0]["value"]["text"][0]
    assert (correction.proposed, correction.model_version) == (proposed, "v1-0a1b2c3d")
    assert correction.is_edit is is_edit
    assert correction.image_key == "ab" * 32
    assert correction.ground_truth is body["annotation"]["ground_truth"]


def test_a_caption_by_the_api_is_learned_and_says_nothing_about_the_suggestion(backend: BackendClient) -> None:
    name = "32_webhook_ANNOTATION_UPDATED_unskipped"
    body = load_payload(name)["body"]
    remember_suggestion(backend, name, "a dog")

    backend.replay(name)

    (correction,) = backend.corrections(body["project"]["id"])
    assert (correction.caption, correction.outcome, correction.proposed) == ("unskipped", "written", None)
    assert correction.image_key == "ab" * 32


def test_a_caption_written_by_hand_has_no_proposal(backend: BackendClient) -> None:
    backend.replay("26_webhook_ANNOTATION_CREATED_manual")

    (correction,) = backend.corrections(12)
    assert (correction.proposed, correction.model_version, correction.image_key) == (None, None, None)


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "yesterday"])
def test_an_event_at_an_impossible_time_is_answered_with_the_field_the_value_and_what_was_expected(
    backend: BackendClient, field: str, value: str
) -> None:
    body = load_payload(ACCEPTED)["body"]
    body["annotation"][field] = value

    response = backend.post("/webhook", body)

    assert response.status_code == 400
    assert response.get_json()["error"] == f"annotation.{field} must be {A_TIME}, got {value!r}"
    assert backend.corrections(6) == []


def test_the_same_event_twice_changes_nothing(backend: BackendClient) -> None:
    backend.replay(ACCEPTED)

    again = backend.replay(ACCEPTED)

    assert again.status_code == 200
    assert again.get_json() == {"changed": 0}
    assert len(backend.corrections(6)) == 1


def test_a_suggestion_made_for_another_image_under_the_same_task_id_is_not_the_proposal(
    backend: BackendClient,
) -> None:
    """On SQLite Label Studio gives the ids of deleted tasks to new ones."""
    remember_suggestion(backend, ACCEPTED, "a brown dog stands on the grass under the sun")
    body = load_payload(ACCEPTED)["body"]
    body["task"]["data"]["captioning"] = "/data/upload/6/ffffffff-cat.png"
    body["annotation"]["result"][0]["origin"] = "manual"

    backend.post("/webhook", body)

    assert backend.corrections(6)[0].proposed is None


def test_annotations_made_from_predictions_are_stored_each(backend: BackendClient) -> None:
    assert backend.replay("36_webhook_ANNOTATIONS_CREATED_bulk").get_json() == {"changed": 4}

    assert [correction.annotation_id for correction in backend.corrections(12)] == [18, 19, 20, 21]


def test_a_skip_takes_back_what_was_stored(backend: BackendClient) -> None:
    body = load_payload("25_webhook_ANNOTATION_CREATED_skipped")["body"]
    backend.post("/webhook", submitted(body))
    assert len(backend.corrections(7)) == 1

    assert backend.replay("25_webhook_ANNOTATION_CREATED_skipped").get_json() == {"changed": 1}

    assert backend.corrections(7) == []


def test_a_skip_that_comes_late_does_not_take_back_what_was_submitted_after_it(backend: BackendClient) -> None:
    name = "25_webhook_ANNOTATION_CREATED_skipped"
    taken_up = submitted(load_payload(name)["body"])
    taken_up["annotation"]["updated_at"] = "2099-01-01T00:00:00.000000Z"
    backend.post("/webhook", taken_up)

    assert backend.replay(name).get_json() == {"changed": 0}

    assert [correction.caption for correction in backend.corrections(7)] == ["a dog"]


def test_the_ledger_tells_what_became_of_each_suggestion(backend: BackendClient) -> None:
    suggestion = "a brown dog stands on the grass under the sun"
    names = {
        ACCEPTED: "accepted",
        "21_webhook_ANNOTATION_CREATED_corrected_edited": "edited",
        "22_webhook_ANNOTATION_CREATED_corrected_retyped": "rewritten",
        "25_webhook_ANNOTATION_CREATED_skipped": "skipped",
    }
    for name in names:
        remember_suggestion(backend, name, suggestion)
        backend.replay(name)
        backend.replay(name)

    for name, outcome in names.items():
        body = load_payload(name)["body"]
        records = {record.annotation_id: record for record in backend.services.feedback.records(body["project"]["id"])}
        record = records[body["annotation"]["id"]]
        assert (record.outcome, record.model_version, record.suggestion) == (outcome, "v1-0a1b2c3d", suggestion)
        assert (record.annotator, record.lead_time_s) == (1, body["annotation"]["lead_time"])


def test_a_skip_is_no_correction_and_the_ledger_knows_it_until_it_is_cancelled(backend: BackendClient) -> None:
    name = "25_webhook_ANNOTATION_CREATED_skipped"
    body = load_payload(name)["body"]
    remember_suggestion(backend, name, "a brown dog stands on the grass under the sun")

    assert backend.post("/webhook", submitted(body)).get_json() == {"changed": 1}
    assert backend.replay(name).get_json() == {"changed": 1}
    assert backend.replay(name).get_json() == {"changed": 0}

    tally = read_ledger(backend.services.redis, 7).versions["v1-0a1b2c3d"]
    assert (tally.judged, tally.skipped, tally.tasks) == (0, 1, 1)

    backend.post("/webhook", body | {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 8}]})

    assert list(backend.services.feedback.records(7)) == []


def test_an_emptied_or_deleted_caption_leaves_the_ledger(backend: BackendClient) -> None:
    for name in ("27_webhook_ANNOTATION_CREATED_empty", "28_webhook_ANNOTATION_CREATED_empty_text"):
        backend.post("/webhook", submitted(load_payload(name)["body"]))
        backend.replay(name)
    backend.replay("36_webhook_ANNOTATIONS_CREATED_bulk")
    backend.replay("35_webhook_ANNOTATIONS_DELETED_bulk")
    assert [record.annotation_id for record in backend.services.feedback.records(12)] == [20, 21]

    body = load_payload("45_webhook_TASKS_DELETED_all")["body"]
    tasks = load_payload("36_webhook_ANNOTATIONS_CREATED_bulk")["body"]["task"]
    backend.post("/webhook", body | {"tasks": [{"id": task["id"]} for task in tasks]})

    assert list(backend.services.feedback.records(12)) == []


def test_a_webhook_reads_the_suggestions_once_and_stores_all_at_once(backend: BackendClient) -> None:
    """Label Studio gives a webhook one second, and every annotator waits for it."""
    remember_suggestion(backend, ACCEPTED, "a dog")
    backend.replay("26_webhook_ANNOTATION_CREATED_manual")  # loads the scripts

    with backend.services.redis.monitor() as watched:
        backend.replay(ACCEPTED)
        backend.services.redis.echo("done")
        commands = iter(lambda: watched.next_command()["command"].split(" ")[0], "ECHO")
        counts = Counter(command for command in commands if command in {"EVALSHA", "LRANGE"})

    assert counts == {"EVALSHA": 1, "LRANGE": 1}


@pytest.mark.parametrize("name", ["27_webhook_ANNOTATION_CREATED_empty", "28_webhook_ANNOTATION_CREATED_empty_text"])
def test_an_emptied_caption_takes_back_what_was_stored(backend: BackendClient, name: str) -> None:
    backend.post("/webhook", submitted(load_payload(name)["body"]))
    assert len(backend.corrections(12)) == 1

    assert backend.replay(name).get_json() == {"changed": 1}

    assert backend.corrections(12) == []


def test_deleted_annotations_take_back_what_they_corrected(backend: BackendClient) -> None:
    backend.replay("36_webhook_ANNOTATIONS_CREATED_bulk")

    assert backend.replay("35_webhook_ANNOTATIONS_DELETED_bulk").get_json() == {"changed": 2}

    assert [correction.annotation_id for correction in backend.corrections(12)] == [20, 21]


@pytest.mark.parametrize("name", ["33_webhook_ANNOTATIONS_DELETED", "34_webhook_ANNOTATIONS_DELETED_cancel_skip"])
def test_deleting_what_was_never_stored_is_no_error(backend: BackendClient, name: str) -> None:
    response = backend.replay(name)

    assert (response.status_code, response.get_json()) == (200, {"changed": 0})


def test_deleted_tasks_take_their_corrections_and_suggestions_along(backend: BackendClient) -> None:
    name = "26_webhook_ANNOTATION_CREATED_manual"  # of task 36, which is among the deleted ones
    remember_suggestion(backend, name, "a dog")
    backend.replay(name)
    image_ref = load_payload(name)["body"]["task"]["data"]["captioning"]

    assert backend.replay("45_webhook_TASKS_DELETED_all").get_json() == {"changed": 1}

    assert backend.corrections(12) == []
    assert backend.services.suggestions.find(12, 36, "caption", image_ref) == []
    assert backend.replay("44_webhook_TASKS_DELETED").status_code == 200


def test_emptying_one_of_two_captions_takes_back_that_one_only_and_twice_does_no_harm(
    backend: BackendClient,
) -> None:
    body = load_payload(ACCEPTED)["body"]
    body["project"]["label_config"] = """<View><Image name="image" value="$captioning"/>
        <TextArea name="cap" toName="image"/><TextArea name="caption" toName="image"/></View>"""
    long, short = body["annotation"]["result"][0], body["annotation"]["result"][0] | {"from_name": "cap", "id": "x"}
    body["annotation"]["result"] = [long, short]
    assert backend.post("/webhook", body).get_json() == {"changed": 2}

    body |= {"action": "ANNOTATION_UPDATED"}
    body["annotation"] |= {"updated_at": "2026-11-21T04:00:00.000000Z", "result": [long]}

    for changed in (2, 0):
        assert backend.post("/webhook", body).get_json() == {"changed": changed}
        assert [correction.control for correction in backend.corrections(6)] == ["caption"]


@pytest.mark.parametrize("name", ["50_webhook_START_TRAINING_basic_auth", "51_webhook_START_TRAINING"])
def test_start_training_enqueues_one_retraining_and_answers_its_id(backend: BackendClient, name: str) -> None:
    project_id = load_payload(name)["body"]["project"]["id"]

    response = backend.replay(name)

    assert response.status_code == 201
    job_id = response.get_json()["job"]
    job = Job.fetch(job_id, connection=backend.services.redis, serializer=JSONSerializer)
    assert (job.func_name, job.args[0]) == ("worker.jobs.retrain", project_id)
    assert backend.replay(name).get_json() == {"job": job_id}
    assert backend.post("/train", {"project": f"{project_id}.1795230827"}).get_json() == {"job": job_id}
    assert backend.post("/job_status", {"job": job_id}).get_json()["job_status"] == "deferred"


def test_enough_corrections_start_a_retraining(make_backend: Callable[..., BackendClient]) -> None:
    backend = make_backend(retrain_after=4)

    backend.replay("36_webhook_ANNOTATIONS_CREATED_bulk")

    (job_id,) = queue(backend.services.redis, RETRAIN_QUEUE).deferred_job_registry.get_job_ids()
    assert job_id.startswith("retrain-12-")


def test_fewer_corrections_wait_for_quiet(make_backend: Callable[..., BackendClient]) -> None:
    backend = make_backend(retrain_after=5)

    backend.replay("36_webhook_ANNOTATIONS_CREATED_bulk")

    retrain = queue(backend.services.redis, RETRAIN_QUEUE)
    assert retrain.deferred_job_registry.get_job_ids() == []
    assert len(retrain.scheduled_job_registry.get_job_ids()) == 1


@pytest.mark.parametrize("name", payload_names("4[01267]_*", "43_*", "60_*"))
def test_events_without_captions_are_answered_and_change_nothing(backend: BackendClient, name: str) -> None:
    response = backend.replay(name)

    assert (response.status_code, response.get_json()) == (200, {"changed": 0})
    assert backend.services.feedback.projects() == []


def test_every_recorded_webhook_is_answered_with_an_object(backend: BackendClient) -> None:
    for name in payload_names("*_webhook_*"):
        response = backend.replay(name)

        assert response.status_code in {200, 201}, name
        assert isinstance(response.get_json(), dict), name


def test_an_unknown_event_is_answered_and_logged(backend: BackendClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = backend.post("/webhook", {"action": "LABEL_LINK_CREATED", "whatever": [1]})

    assert (response.status_code, response.get_json()) == (200, {"changed": 0})
    assert "action=LABEL_LINK_CREATED" in caplog.text


@pytest.mark.parametrize("config", ['<View><Text name="t" value="$x"/></View>', "<View", ""])
def test_an_event_of_a_project_we_cannot_caption_is_answered_and_logged(
    backend: BackendClient, caplog: pytest.LogCaptureFixture, config: str
) -> None:
    body = load_payload(ACCEPTED)["body"]
    body["project"]["label_config"] = config

    with caplog.at_level(logging.INFO):
        response = backend.post("/webhook", body)

    assert (response.status_code, response.get_json()) == (200, {"changed": 0})
    assert "webhook ignored action=ANNOTATION_CREATED project=6 reason=the labeling config" in caplog.text


def test_tokens_and_captions_of_others_are_not_logged(backend: BackendClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for name in payload_names("*_webhook_*", "*_setup*", "*_predict_*"):
            backend.replay(name)

    assert "DUMMY" not in caplog.text


def test_with_redis_down_nothing_is_acknowledged_and_it_works_again_when_redis_does(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    backend = make_backend(redis_url=own_redis.url)
    backend.replay(ACCEPTED)
    own_redis.kill()

    for name in payload_names("2*_webhook_*", "3*_webhook_*", "4[45]_webhook_*", "5*_webhook_*"):
        response = backend.replay(name)

        assert response.status_code == 503, name
        assert response.get_json()["error"].startswith("Redis cannot be reached"), name

    own_redis.start()
    own_redis.client().ping()
    assert len(backend.corrections(6)) == 1
    assert backend.replay("21_webhook_ANNOTATION_CREATED_corrected_edited").status_code == 201


def test_a_redis_that_goes_down_in_the_middle_is_not_acknowledged(
    backend: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr("worker.feedback.feedback_store.FeedbackStore.record", fail)

    assert backend.replay(ACCEPTED).status_code == 503


def test_a_correction_is_in_redis_files_before_the_answer(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    backend = make_backend(redis_url=own_redis.url)
    assert backend.replay(ACCEPTED).status_code == 201

    own_redis.kill()
    own_redis.start()
    own_redis.client().ping()

    assert len(backend.corrections(6)) == 1


def test_a_trigger_that_fails_does_not_unstore_the_correction(
    backend: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr("backend.captioning.backend.retrain_when_due", fail)

    assert backend.replay(ACCEPTED).status_code == 201
    assert len(backend.corrections(6)) == 1


@pytest.mark.parametrize("name", ["61_webhook_auth_by_headers", "62_webhook_auth_in_url"])
def test_events_with_the_login_are_believed(make_backend: Callable[..., BackendClient], name: str) -> None:
    user, password = RECORDED_LOGIN
    backend = make_backend(basic_auth_user=user, basic_auth_pass=password)

    assert backend.replay(name).status_code == 201


def test_events_without_the_login_are_refused_unless_they_carry_the_secret(
    make_backend: Callable[..., BackendClient],
) -> None:
    backend = make_backend(basic_auth_user="mluser", basic_auth_pass="right", webhook_secret="s3cret")
    body = load_payload(ACCEPTED)["body"]

    refused = [
        backend.replay("60_webhook_default_no_credentials"),
        backend.replay("61_webhook_auth_by_headers"),  # another password
        backend.post("/webhook", body, {WEBHOOK_HEADER: "guess"}),
        backend.post("/predict", {}, {WEBHOOK_HEADER: "s3cret"}),
    ]

    assert [response.status_code for response in refused] == [401] * 4
    assert refused[0].headers["WWW-Authenticate"].startswith("Basic")
    assert WEBHOOK_HEADER in refused[0].get_json()["error"]
    assert backend.post("/webhook", body, {WEBHOOK_HEADER: "s3cret"}).status_code == 201
    assert backend.post("/webhook", body, basic_auth("mluser", "right")).status_code == 200
    assert len(backend.corrections(6)) == 1


def test_with_a_secret_alone_events_need_it_and_start_training_cannot_have_it(
    make_backend: Callable[..., BackendClient],
) -> None:
    backend = make_backend(webhook_secret="s3cret")

    assert backend.replay(ACCEPTED).status_code == 401
    assert backend.corrections(6) == []
    assert backend.post("/webhook", load_payload(ACCEPTED)["body"], {WEBHOOK_HEADER: "s3cret"}).status_code == 201
    assert backend.replay("51_webhook_START_TRAINING").status_code == 201
    assert backend.replay("02_setup").status_code == 200


def submitted(body: dict[str, Any]) -> dict[str, Any]:
    """The same annotation, a moment earlier, with a caption that counts."""
    region = {"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": ["a dog"]}}
    changes = {"was_cancelled": False, "result": [region], "updated_at": "2026-11-21T03:00:00.000000Z"}
    return body | {"annotation": body["annotation"] | changes}
