"""/setup and /predict as Label Studio calls them, with the real app, a small real captioner and a real Redis."""

import base64
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from torch import Tensor

from backend.captioning.suggest import Suggester
from backend.images.task_images import TaskImageReader
from backend.protocol.label_config import parse_caption_controls
from backend.routes import routes
from model.bundle import load_bundle
from model.errors import BusyError
from model.manifest import write_first_score
from model.runtime.onnx_encoder import OnnxEncoder
from model.store import Store
from model.vision.encoder_spec import ImageEncoder
from model.vision.features import FeatureStore
from model.vision.images import image_key
from tests.backend_client import LABEL_CONFIG, BackendClient
from tests.factories import make_first_score, make_task, write_bundle
from tests.image_server import ImageServer, png
from tests.payloads import load_payload, payload_names
from tests.redis_server import RedisServer
from worker.audit import AuditLog
from worker.feedback.score_calibration import UNJUDGED, Calibration, write_calibration
from worker.feedback.suggestions import Suggestion
from worker.feedback.totals import read_ledger
from worker.policy import is_withheld
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue

TWO_PAIRS = """<View><Image name="left" value="$a"/><Image name="right" value="$b"/><Text name="t" value="$c"/>
<TextArea name="left caption" toName="left"/><TextArea name="说明" toName="right"/>
<TextArea name="n" toName="t"/></View>"""


def task(number: int, image_ref: str) -> dict[str, Any]:
    return make_task(id=number, data={"captioning": image_ref})


@pytest.mark.parametrize("name", payload_names("02_*", "03_*", "04_*"))
def test_setup_names_the_serving_version(backend: BackendClient, name: str) -> None:
    response = backend.replay(name)

    assert response.status_code == 200
    assert response.get_json() == {"model_version": backend.services.captioners.registry.base_version}


def test_setup_loads_no_weights(backend: BackendClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "backend.captioning.serving_versions.ServingCaptioners.bundle", lambda _: pytest.fail("weights were loaded")
    )

    assert backend.replay("02_setup").status_code == 200
    assert backend.replay("01_health").status_code == 200


@pytest.mark.parametrize("name", ["10_predict_label_stream", "11_predict_open_task_upload"])
def test_a_recorded_task_gets_a_caption_of_the_version_that_setup_names(
    backend: BackendClient, image_server: ImageServer, name: str
) -> None:
    body = load_payload(name)["body"]
    image_server.show(body["tasks"][0]["data"]["captioning"])

    response = backend.replay(name)

    assert response.status_code == 200
    (entry,) = response.get_json()["results"]
    assert entry["model_version"] == backend.replay("02_setup").get_json()["model_version"]
    assert 0 <= entry["score"] <= 1
    (region,) = entry["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("caption", "image", "textarea")
    assert region["score"] == entry["score"]
    assert [type(text) for text in region["value"]["text"]] == [str]


def test_until_people_have_judged_the_score_says_how_likely_the_main_things_are_right(
    make_backend: Callable[..., BackendClient], image_server: ImageServer, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    first_score = make_first_score(load_bundle(str(bundle)).encoder.feature_size)
    write_first_score(bundle, first_score)
    backend = make_backend(caption_bundle=str(bundle), allowed_image_hosts="127.0.0.1")
    address = image_server.show("/dog.png")

    (before,) = backend.predict([task(1, address)])

    text = before["result"][0]["value"]["text"][0]
    [suggestion] = backend.services.suggestions.find(1, 1, "caption", address)
    assert suggestion.score is not None
    features = FeatureStore(backend.services.store, load_bundle(str(bundle)).encoder.fingerprint)
    stored = features.get(suggestion.image_key)
    assert stored is not None
    position = first_score.familiar.position(stored)
    assert before["score"] == pytest.approx(first_score.score(suggestion.score, text, position), abs=0.01)
    calibration = Calibration(intercept=-1.0, slope=0.5, per_length=0.0, judged=50, error=0.02, error_before=0.3)
    write_calibration(Store(backend.settings.model_store), 1, calibration)
    (after,) = backend.predict([task(2, address)])
    assert after["score"] == calibration.score(suggestion.score, text)


def test_the_score_is_the_probability_of_acceptance_once_the_project_has_a_calibration(
    backend: BackendClient, image_server: ImageServer
) -> None:
    address = image_server.show("/dog.png")
    (before,) = backend.predict([task(1, address)])
    calibration = Calibration(intercept=-1.0, slope=0.5, per_length=0.0, judged=50, error=0.02, error_before=0.3)
    write_calibration(Store(backend.settings.model_store), 1, calibration)

    (after,) = backend.predict([task(2, address)])

    (region,) = after["result"]
    text = region["value"]["text"][0]
    [suggestion] = backend.services.suggestions.find(1, 2, "caption", address)
    assert suggestion.score is not None
    assert after["score"] == calibration.score(suggestion.score, text) == region["score"]
    assert before["score"] == UNJUDGED.score(suggestion.score, text) < suggestion.score


def test_local_files_web_addresses_and_cloud_files_are_captioned(
    backend: BackendClient, image_server: ImageServer
) -> None:
    encoded = base64.urlsafe_b64encode(b"s3://pics/a/dog0.png").decode()
    image_server.show("/data/local-files/?d=images/dog0.png")
    image_server.show(f"/tasks/194/resolve/?fileuri={encoded}")
    address = image_server.show("/pic.png")
    inside = "data:image/png;base64," + base64.b64encode(png()).decode()

    results = backend.predict(
        [
            task(8, "/data/local-files/?d=images/dog0.png"),
            task(5, address),
            task(194, "s3://pics/a/dog0.png"),
            task(7, inside),
        ]
    )

    # It is the same image four times.
    assert len({entry["result"][0]["value"]["text"][0] for entry in results}) == 1


def test_all_selected_tasks_of_retrieve_predictions_are_answered_in_order(
    backend: BackendClient, image_server: ImageServer
) -> None:
    tasks = load_payload("15_predict_batch_retrieve_predictions")["body"]["tasks"]
    for number, selected in enumerate(tasks):
        image_server.show(selected["data"]["captioning"], ("red", "green", "blue")[number % 3])

    together = backend.replay("15_predict_batch_retrieve_predictions").get_json()["results"]

    alone = [backend.predict([selected])[0] for selected in tasks]
    assert len(together) == len(tasks) > 1
    assert [entry["result"][0]["value"] for entry in together] == [entry["result"][0]["value"] for entry in alone]


def test_a_broken_image_gets_an_error_and_the_other_images_are_captioned(
    backend: BackendClient, image_server: ImageServer, caplog: pytest.LogCaptureFixture
) -> None:
    image_server.pages["/text.jpg"] = b"I am a text file"
    good = image_server.show("/good.png")
    tasks = [
        task(1, good),
        task(2, image_server.url + "/text.jpg"),
        task(3, image_server.url + "/missing.png"),
        make_task(id=4, data={"title": "no image"}),
        task(5, good),
    ]

    with caplog.at_level(logging.WARNING):
        results = backend.predict(tasks)

    assert ["result" in entry for entry in results] == [True, False, False, False, True]
    assert "not an image" in results[1]["error"]
    assert "answered 404" in results[2]["error"]
    assert "no image reference at 'captioning', its fields: title" in results[3]["error"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert [f"task={number} " in warning for number, warning in zip((2, 3, 4), warnings, strict=True)] == [True] * 3


def test_no_task_at_all_is_an_empty_answer(backend: BackendClient) -> None:
    assert backend.predict([]) == []


def test_interactive_calls_never_overwrite_what_the_annotator_typed(backend: BackendClient) -> None:
    response = backend.replay("17_predict_interactive")

    assert response.get_json() == {"results": [{"result": []}]}
    assert backend.predict([make_task()], context={}) == [{"result": []}]


def test_send_test_request_is_answered(backend: BackendClient, image_server: ImageServer) -> None:
    body = load_payload("16_predict_send_test_request")["body"]
    image_server.show(body["tasks"][0]["data"]["captioning"])

    assert "result" in backend.replay("16_predict_send_test_request").get_json()["results"][0]


@pytest.mark.parametrize("name", payload_names("12_*", "13_*", "14_*"))
def test_every_recorded_predict_is_answered_for_each_task(backend: BackendClient, name: str) -> None:
    """No server has these images, so each task gets the reason why it has no caption."""
    response = backend.replay(name)

    assert response.status_code == 200
    assert [list(entry) for entry in response.get_json()["results"]] == [["error"]]


def test_each_text_area_describes_its_own_image(backend: BackendClient, image_server: ImageServer) -> None:
    left, right = image_server.show("/left.png", "red"), image_server.show("/right.png", "blue")
    pair = make_task(data={"a": left, "b": right, "c": "text"})

    (entry,) = backend.predict([pair], TWO_PAIRS)

    regions = {region["from_name"]: region for region in entry["result"]}
    assert {name: region["to_name"] for name, region in regions.items()} == {"left caption": "left", "说明": "right"}
    assert len({region["id"] for region in entry["result"]}) == 2
    assert entry["score"] == min(region["score"] for region in entry["result"])
    for name, address in (("left caption", left), ("说明", right)):
        (alone,) = backend.predict([task(9, address)])
        assert regions[name]["value"] == alone["result"][0]["value"]


def test_an_empty_field_of_one_control_leaves_the_others(backend: BackendClient, image_server: ImageServer) -> None:
    pair = make_task(data={"a": image_server.show("/left.png"), "b": "", "c": "text"})

    (entry,) = backend.predict([pair], TWO_PAIRS)

    assert [region["from_name"] for region in entry["result"]] == ["left caption"]


def test_alternatives_are_distinct_and_the_best_comes_last(
    make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    backend = make_backend(alternatives=3, beam_size=5, label_studio_url=image_server.url)
    tasks = [task(1, image_server.show("/a.png"))]

    (entry,) = backend.predict(tasks)

    texts = [prediction["result"][0]["value"]["text"][0] for prediction in entry]
    assert len(set(texts)) == len(texts) == 3
    assert {prediction["model_version"] for prediction in entry} == {backend.services.captioners.version_of(1)}
    (best,) = make_backend(beam_size=5, label_studio_url=image_server.url).predict(tasks)
    assert best["result"][0]["value"]["text"][0] == texts[-1]


def test_hidden_images_get_an_empty_prediction_of_the_version_and_are_remembered_as_withheld(
    make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    backend = make_backend(hide_suggestions_share=50, label_studio_url=image_server.url)
    tasks = [task(number, image_server.show(f"/{number}.png", f"rgb({number},0,0)")) for number in range(1, 21)]

    results = backend.predict(tasks)
    again = backend.predict(tasks)

    version = backend.services.captioners.version_of(1)
    hidden = {number for number, entry in enumerate(results, start=1) if not entry["result"]}
    assert 4 <= len(hidden) <= 16
    assert all(entry == {"result": [], "model_version": version} for entry in results if not entry["result"])
    assert again == results
    for number in range(1, 21):
        image_ref = tasks[number - 1]["data"]["captioning"]
        (remembered,) = backend.services.suggestions.find(1, number, "caption", image_ref)
        assert (remembered.withheld, remembered.model_version) == (number in hidden, version)
    ledger = read_ledger(backend.services.redis, 1)
    assert (ledger.withheld.tally.tasks, ledger.shown.tally.tasks) == (len(hidden), 20 - len(hidden))
    assert all(entry["result"] for entry in make_backend(label_studio_url=image_server.url).predict(tasks))


def test_of_two_images_of_a_task_one_may_be_hidden(
    make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    backend = make_backend(hide_suggestions_share=50, alternatives=2, label_studio_url=image_server.url)
    by_fate = {is_withheld(image_key(png(color)), 50): color for color in ("red", "green", "blue", "black", "white")}
    hidden, shown = (image_server.show(f"/{fate}.png", by_fate[fate]) for fate in (True, False))

    (entry,) = backend.predict([make_task(data={"a": hidden, "b": shown, "c": "text"})], TWO_PAIRS)

    assert [[region["from_name"] for region in prediction["result"]] for prediction in entry] == [["说明"], ["说明"]]


def test_each_image_content_is_encoded_once(
    backend: BackendClient, image_server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, put = threading.Semaphore(0), FeatureStore.put

    def put_and_count(features: FeatureStore, key: str, values: Tensor) -> None:
        put(features, key, values)
        stored.release()

    monkeypatch.setattr(FeatureStore, "put", put_and_count)
    addresses = [image_server.show(f"/{number}.png", "red") for number in range(3)] + [image_server.show("/b", "blue")]
    tasks = [task(number, address) for number, address in enumerate(addresses)]
    first = backend.predict(tasks)
    for _ in ("red", "blue"):
        assert stored.acquire(timeout=30)
    monkeypatch.setattr(OnnxEncoder, "encode", lambda *_: pytest.fail("encoded again"))

    again = backend.predict(tasks)

    assert again == first


def test_a_batch_larger_than_the_encoders_and_decoders_is_answered_whole(
    backend: BackendClient, image_server: ImageServer
) -> None:
    services = backend.services
    reader = TaskImageReader(services.task_images.fetcher, services.metrics, services.batches, encoder_batch=2)
    suggester = Suggester(
        replace(services, task_images=reader), 1, parse_caption_controls(LABEL_CONFIG), decoder_batch=3
    )
    colors = ("red", "green", "blue", "yellow", "black", "white", "orange")
    tasks = [task(number, image_server.show(f"/{color}", color)) for number, color in enumerate(colors)]

    suggestions = suggester.suggest(tasks)

    captions = [[caption.text for caption in suggested.controls[0].captions] for suggested in suggestions]
    assert captions == [entry["result"][0]["value"]["text"] for entry in backend.predict(tasks)]


def test_what_was_suggested_is_remembered_for_the_correction(
    make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    backend = make_backend(alternatives=2, label_studio_url=image_server.url)
    address = image_server.show("/a.png")

    (entry,) = backend.predict([task(7, address)])

    remembered = backend.services.suggestions.find(1, 7, "caption", address)
    assert [suggestion.caption for suggestion in remembered] == [
        prediction["result"][0]["value"]["text"][0] for prediction in reversed(entry)
    ]
    assert isinstance(remembered[0], Suggestion)
    assert {suggestion.model_version for suggestion in remembered} == {entry[0]["model_version"]}


def test_with_redis_down_annotators_still_get_suggestions(
    make_backend: Callable[..., BackendClient],
    own_redis: RedisServer,
    image_server: ImageServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = make_backend(redis_url=own_redis.url, label_studio_url=image_server.url)
    own_redis.kill()

    (entry,) = backend.predict([task(1, image_server.show("/a.png"))])

    assert "result" in entry
    assert "suggestions not remembered" in caplog.text


def test_a_published_version_serves_without_a_restart_and_only_its_project(
    backend: BackendClient, image_server: ImageServer
) -> None:
    registry = backend.services.captioners.registry
    candidate = backend.trainable_captioner()
    torch.nn.init.zeros_(next(candidate.decoder.parameters()))
    address = image_server.show("/a.png")
    backend.predict([task(1, address)])

    version = registry.publish(
        1, candidate, parent=registry.base_version, metrics={}, corrections=(), decision="better"
    )
    backend.services.captioners.pointer_age_s = 0.0

    assert backend.predict([task(1, address)])[0]["model_version"] == version.name
    assert backend.replay("02_setup").get_json()["model_version"] == registry.base_version  # project 2
    assert backend.post("/versions", {"project": "1.1795230827"}).get_json() == {
        "versions": [registry.base_version, version.name],
        "model_version": version.name,
    }


def test_a_known_image_gets_the_caption_of_each_version_that_serves(
    backend: BackendClient, image_server: ImageServer
) -> None:
    registry, address = backend.services.captioners.registry, image_server.show("/a.png")
    backend.services.captioners.pointer_age_s = 0.0
    candidate = backend.trainable_captioner()
    with torch.no_grad():
        candidate.decoder.bias[-1] += 20  # it writes its last word only
    before = text_of(backend.predict([task(1, address)])[0])

    registry.publish(1, candidate, parent=registry.base_version, metrics={}, corrections=(), decision="better")
    after = text_of(backend.predict([task(1, address)])[0])
    registry.rollback(1, by="a person")

    assert set(after.split()) == {candidate.tokenizer.words[-1]}
    assert text_of(backend.predict([task(1, address)])[0]) == before != after


def text_of(entry: Any) -> str:
    return str(entry["result"][0]["value"]["text"][0])


def test_versions_without_a_project_name_the_bundle(backend: BackendClient) -> None:
    base_version = backend.services.captioners.registry.base_version

    assert backend.replay("05_versions").get_json() == {"versions": [base_version]}
    assert backend.get("/versions?project=3").get_json() == {
        "versions": [base_version],
        "model_version": base_version,
    }


def test_one_missing_image_does_not_cost_the_other_its_caption(
    backend: BackendClient, image_server: ImageServer, caplog: pytest.LogCaptureFixture
) -> None:
    there, gone = image_server.show("/there.png"), image_server.url + "/gone.png"
    tasks = [make_task(id=number, data=data) for number, data in enumerate(({"a": there, "b": gone}, {"a": gone}), 1)]
    body = {"tasks": tasks, "project": "1.1", "label_config": TWO_PAIRS, "params": {}}

    first, second = backend.post("/predict", body).get_json()["results"]

    assert [region["from_name"] for region in first["result"]] == ["left caption"]
    assert "/gone.png answered 404" in second["error"]
    assert "field left without a caption task=1 field=说明" in caplog.text


def setup_version(backend: BackendClient, label_config: str) -> str:
    return str(backend.post("/setup", {"project": "1.1", "schema": label_config}).get_json()["model_version"])


def test_another_field_is_another_version_for_label_studio_and_the_old_field_brings_the_old_one_back(
    make_backend: Callable[..., BackendClient], image_server: ImageServer
) -> None:
    backend = make_backend(label_studio_url=image_server.url, label_studio_api_key="f" * 40)
    renamed = LABEL_CONFIG.replace('name="caption"', 'name="description"')
    before, after, again = (setup_version(backend, config) for config in (LABEL_CONFIG, renamed, LABEL_CONFIG))
    tasks = [task(1, image_server.show("/1.png"))]
    body = {"tasks": tasks, "project": "1.1", "label_config": renamed, "params": {}}

    [entry] = backend.post("/predict", body).get_json()["results"]

    assert (before, after, again) == (before, f"{before}+f2", before)
    assert entry["model_version"] == after
    assert [region["from_name"] for region in entry["result"]] == ["description"]
    home = queue(backend.services.redis, LABEL_STUDIO_QUEUE)
    soon = Job.fetch_many(home.scheduled_job_registry.get_job_ids(), backend.services.redis, JSONSerializer)
    refreshes = [job.args for job in soon if job and job.func_name == "backend.jobs.refresh_predictions"]
    assert refreshes == [[1, before]]


@pytest.mark.parametrize(
    "changes", [{"alternatives": 2}, {"hide_suggestions_share": 50}, {"beam_size": 5}, {"decoder_alone_share": 20}]
)
def test_a_setting_that_shapes_suggestions_is_another_version_for_label_studio(
    make_backend: Callable[..., BackendClient], changes: dict[str, Any]
) -> None:
    before = setup_version(make_backend(), LABEL_CONFIG)

    assert setup_version(make_backend(**changes), LABEL_CONFIG) == f"{before}+f2"


def test_a_labeling_config_can_be_validated(backend: BackendClient) -> None:
    response = backend.post("/validate", {"config": LABEL_CONFIG})

    assert response.get_json() == {
        "valid": True,
        "controls": [{"from_name": "caption", "to_name": "image", "image_field": "captioning", "address": ""}],
        "without": [],
    }


def test_a_project_can_start_with_the_version_of_another_and_can_start_over(backend: BackendClient) -> None:
    registry = backend.services.captioners.registry
    candidate = backend.trainable_captioner()
    version = registry.publish(
        1, candidate, parent=registry.base_version, metrics={}, corrections=(), decision="better"
    )

    copied = backend.post("/duplicate_model", {"project_src": "1.5", "project_dst": "2.5"}).get_json()

    assert registry.serving(2) == copied["model_version"] != registry.base_version
    assert registry.versions(2)[0].decision == f"copied from version {version.name} of project 1"
    assert backend.post("/delete", {"project": "1.5"}).get_json()["model_version"] == registry.base_version
    assert registry.serving(1) == registry.base_version
    assert registry.serving(2) == copied["model_version"]
    assert [published.name for published in registry.versions(1)] == [version.name]
    deleted, duplicated = AuditLog(backend.services.redis).read()
    assert (duplicated.who, duplicated.action) == ("POST /duplicate_model", "version copied")
    assert (duplicated.project_id, duplicated.details["source"]) == (2, 1)
    assert (deleted.who, deleted.action, deleted.project_id) == ("POST /delete", "version promoted", 1)


def test_every_route_that_label_studio_calls_exists(backend: BackendClient) -> None:
    rules = {rule.rule for rule in backend.app.url_map.iter_rules() if rule.endpoint.startswith(routes.name)}

    assert rules == {
        "/",
        "/health",
        "/setup",
        "/predict",
        "/webhook",
        "/train",
        "/versions",
        "/job_status",
        "/validate",
        "/delete",
        "/duplicate_model",
    }


@pytest.mark.parametrize("key", ["f" * 40, None])
def test_what_a_call_cannot_caption_in_time_says_so_and_a_job_captions_it(
    make_backend: Callable[..., BackendClient],
    image_server: ImageServer,
    monkeypatch: pytest.MonkeyPatch,
    redis: Redis,
    key: str | None,
) -> None:
    monkeypatch.setattr("backend.captioning.backend.TASKS_AT_ONCE", 2)
    monkeypatch.setattr("backend.captioning.backend.ANSWER_S", 0.0)
    backend = make_backend(label_studio_url=image_server.url, label_studio_api_key=key)
    images = [image_server.show(f"/{number}.png") for number in range(5)]

    results = backend.predict([make_task(id=n, data={"captioning": image}) for n, image in enumerate(images, 1)])

    jobs = queue(redis, LABEL_STUDIO_QUEUE).jobs
    then = "a job captions it in the background" if key else "ask again for this task"
    assert ["result" in entry for entry in results] == [True, True, False, False, False]
    assert all(entry["error"].endswith(then) for entry in results[2:])
    assert [(job.func_name, job.args[0]) for job in jobs] == ([("backend.jobs.refresh_predictions", 1)] if key else [])


def test_an_image_that_the_busy_machine_did_not_encode_in_time_is_left_to_a_job(
    backend: BackendClient, image_server: ImageServer, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    slow, quick = task(1, image_server.show("/a.png", "red")), task(2, image_server.show("/b.png", "blue"))
    missing = task(3, image_server.url + "/missing.png")
    encoder_class = type(backend.services.captioners.captioner_for(1).encoder)
    is_over, encode = threading.Event(), encoder_class.encode

    def encode_red_slowly(encoder: ImageEncoder, images: Sequence[Any]) -> Any:
        if images[0][0].mean() > images[0][2].mean():
            is_over.wait(30)
        return encode(encoder, images)

    monkeypatch.setattr(encoder_class, "encode", encode_red_slowly)
    monkeypatch.setattr("backend.captioning.backend.FETCH_BUDGET_S", 2.0)

    results = backend.predict([slow, quick, missing])

    is_over.set()
    jobs = queue(redis, LABEL_STUDIO_QUEUE).jobs
    assert results[0]["error"].endswith("a job captions it in the background")
    assert "result" in results[1]
    assert "404" in results[2]["error"]
    assert [(job.func_name, job.args[0]) for job in jobs] == [("backend.jobs.refresh_predictions", 1)]


def test_a_call_that_does_not_fit_is_a_503_with_the_time_to_come_back(
    backend: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BusyError("80 calls for predictions wait already", 10)

    monkeypatch.setattr(backend.services.turns, "turn", refuse)

    response = backend.post("/predict", {"tasks": [make_task()], "project": "1.1", "label_config": LABEL_CONFIG})

    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert response.get_json()["error"] == "80 calls for predictions wait already; ask again in 10 s"
