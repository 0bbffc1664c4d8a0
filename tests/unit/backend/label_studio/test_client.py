"""The client against the fake Label Studio; tests/e2e asks the real one."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from backend.label_studio.api_key import ApiKey
from backend.label_studio.client import LabelStudioClient, Webhook
from model.errors import LabelStudioError, SettingsError
from tests.fake_label_studio import LEGACY_TOKEN, FakeLabelStudio, Reply, Request, make_jwt, refused
from worker.settings import Settings

PROJECT = 7


@pytest.fixture
def client(label_studio: FakeLabelStudio) -> LabelStudioClient:
    label_studio.add_project(id=PROJECT)
    return LabelStudioClient(label_studio.url, LEGACY_TOKEN)


def exchanges(label_studio: FakeLabelStudio) -> list[Request]:
    return label_studio.requests_to("POST", "/api/token/refresh")


def queries(label_studio: FakeLabelStudio) -> list[dict[str, Any]]:
    return [json.loads(request.query["query"]) for request in label_studio.requests_to("GET", "/api/tasks")]


# API keys


def test_a_legacy_token_is_sent_as_it_is(client: LabelStudioClient) -> None:
    assert client.key_kind == "legacy token"
    assert client.authorization() == {"Authorization": f"Token {LEGACY_TOKEN}"}


def test_a_personal_access_token_is_exchanged_once_for_many_requests(label_studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(label_studio.url, label_studio.personal_access_token)

    users = [client.user(), client.user()]

    assert client.key_kind == "personal access token"
    assert users == ["demo@example.com"] * 2
    [exchange] = exchanges(label_studio)
    assert exchange.body == {"refresh": label_studio.personal_access_token}
    assert "authorization" not in exchange.headers


def test_threads_that_ask_at_once_exchange_the_token_once(label_studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(label_studio.url, label_studio.personal_access_token)
    threads = [threading.Thread(target=client.user) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(exchanges(label_studio)) == 1
    assert len(label_studio.requests_to("GET", "/api/current-user/whoami")) == 8


def test_an_access_token_is_renewed_before_its_300_seconds_end() -> None:
    moments = iter([1000.0, 1000.0, 1209.0, 1211.0, 1211.0])
    tokens = iter([make_jwt("access", 300), make_jwt("access", 300)])
    key = ApiKey(make_jwt("refresh", 3600), lambda _: next(tokens), clock=lambda: next(moments))

    first, second, third = (key.authorization()["Authorization"] for _ in range(3))

    assert first == second != third


def test_an_access_token_that_died_early_is_replaced(label_studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(label_studio.url, label_studio.personal_access_token)
    client.user()
    label_studio.access_tokens.clear()

    assert client.user() == "demo@example.com"


def test_an_unknown_personal_access_token_says_where_to_get_another(label_studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(label_studio.url, make_jwt("refresh", 3600))

    with pytest.raises(LabelStudioError, match=r"Token is invalid.*create a new one in Account & Settings"):
        client.user()


def test_a_refused_legacy_token_says_how_to_allow_it(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    label_studio.allows_legacy_tokens = False
    reason = "legacy token authentication has been disabled for this organization"

    with pytest.raises(LabelStudioError, match=f"{reason}.*personal access token, or allow legacy") as refusal:
        client.user()

    assert LEGACY_TOKEN not in str(refusal.value)


def test_an_access_token_as_the_api_key_is_refused_at_once(label_studio: FakeLabelStudio) -> None:
    with pytest.raises(SettingsError, match="is an access token, which lives 5 minutes"):
        LabelStudioClient(label_studio.url, make_jwt("access", 300))


@pytest.mark.parametrize("key", ["legacy", "personal"])
def test_netrc_does_not_replace_our_token(
    label_studio: FakeLabelStudio, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    token = LEGACY_TOKEN if key == "legacy" else label_studio.personal_access_token

    LabelStudioClient(label_studio.url, token).user()

    sent = [request.headers.get("authorization") for request in label_studio.requests]
    assert not any(header and header.startswith("Basic") for header in sent)


def test_a_cookie_of_label_studio_is_not_sent_back(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    """With a session's cookie, Label Studio would ask for a CSRF token and refuse what we write."""
    session = {"Set-Cookie": "sessionid=abc; Path=/"}
    label_studio.prepare("GET", "/api/version/", Reply(body={"release": "1.23.2"}, headers=session))

    client.server_version()
    client.user()

    assert "cookie" not in label_studio.requests[-1].headers


def test_without_an_api_key_there_is_no_client() -> None:
    assert LabelStudioClient.from_settings(Settings()) is None
    client = LabelStudioClient.from_settings(Settings(label_studio_api_key=LEGACY_TOKEN))

    assert client is not None
    assert client.url == "http://label-studio:8080/"


# The server


@pytest.mark.parametrize("end", ["", "/"])
def test_a_label_studio_below_a_path_is_asked_below_it(label_studio: FakeLabelStudio, end: str) -> None:
    label_studio.prepare("GET", "/sub/api/version/", Reply(body={"release": "1.23.2"}))

    assert LabelStudioClient(f"{label_studio.url}/sub{end}", LEGACY_TOKEN).server_version() == "1.23.2"


@pytest.mark.parametrize("body", [b"<html>welcome to nginx</html>", {"version": "3"}, ["1.23.2"], {"release": 5}])
def test_another_server_at_the_address_is_named(
    label_studio: FakeLabelStudio, client: LabelStudioClient, body: Any
) -> None:
    label_studio.prepare("GET", "/api/version/", Reply(body=body))

    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL must be the address of Label Studio"):
        client.server_version()


def test_a_redirect_is_not_followed_but_named(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    elsewhere = f"{label_studio.url}/elsewhere"
    label_studio.prepare("GET", "/api/version/", Reply(status=301, headers={"Location": elsewhere}))

    with pytest.raises(LabelStudioError, match=rf"redirects to {elsewhere}: set LABEL_STUDIO_URL"):
        client.server_version()

    assert label_studio.requests_to("GET", "/elsewhere") == []


def test_an_unreachable_label_studio_is_named() -> None:
    with pytest.raises(LabelStudioError, match=r"cannot be reached at .* start it, or correct LABEL_STUDIO_URL"):
        LabelStudioClient("http://127.0.0.1:9", LEGACY_TOKEN).server_version()


def test_a_label_studio_that_takes_too_long_is_named(
    label_studio: FakeLabelStudio,
) -> None:
    client = LabelStudioClient(label_studio.url, LEGACY_TOKEN, read_timeout_s=0.1)
    is_over = threading.Event()

    def wait(request: Request) -> Reply:
        is_over.wait(60)
        return label_studio.answer_by_itself(request)

    label_studio.prepare("GET", "/api/version/", wait)

    with pytest.raises(LabelStudioError, match="did not answer in time"):
        client.server_version()
    is_over.set()


# Tasks


def test_tasks_are_asked_for_by_id_so_that_none_is_missed_when_others_leave(
    label_studio: FakeLabelStudio,
) -> None:
    label_studio.add_project(id=PROJECT)
    client = LabelStudioClient(label_studio.url, LEGACY_TOKEN, tasks_per_page=2)
    for number in (3, 8, 12):
        label_studio.add_task(PROJECT, {}, id=number)
    tasks = client.unannotated_tasks(PROJECT)

    first = next(tasks)["id"]
    label_studio.submit(3, "a dog")

    assert [first, *(task["id"] for task in tasks)] == [3, 8, 12]
    assert [query["filters"]["items"][1]["value"] for query in queries(label_studio)] == [0, 8, 12]
    requests = label_studio.requests_to("GET", "/api/tasks")
    assert {(request.query["page"], request.query["resolve_uri"]) for request in requests} == {("1", "false")}


def test_times_of_annotated_and_of_skipped_tasks_are_asked_for_apart(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    annotated, skipped = label_studio.add_task(PROJECT, {}), label_studio.add_task(PROJECT, {})
    label_studio.submit(annotated, "a dog")
    label_studio.skip(skipped)
    times = {task_id: task["updated_at"] for task_id, task in label_studio.tasks.items()}

    assert client.annotated_task_times(PROJECT) == {annotated: times[annotated]}
    assert client.skipped_task_times(PROJECT) == {skipped: times[skipped]}

    assert {request.query["include"] for request in label_studio.requests} == {"id,updated_at"}


def test_chosen_tasks_are_asked_for_in_addresses_that_are_not_too_long(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    label_studio.add_task(PROJECT, {}, id=1_000_449)

    tasks = list(client.tasks(PROJECT, range(1_000_000, 1_000_450)))

    assert [task["id"] for task in tasks] == [1_000_449]
    requests = label_studio.requests_to("GET", "/api/tasks")
    assert len(requests) == 3
    assert max(len(json.dumps(dict(request.query))) for request in requests) < 4_000


def test_an_annotation_that_is_gone_is_none(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    annotation_id = label_studio.skip(label_studio.add_task(PROJECT, {}))

    annotation = client.annotation(annotation_id)
    label_studio.delete_annotation(annotation_id)

    assert annotation is not None
    assert (annotation["id"], annotation["was_cancelled"]) == (annotation_id, True)
    assert client.annotation(annotation_id) is None


# Predictions


def prediction(task_id: int) -> dict[str, Any]:
    return {"task": task_id, "result": [], "score": 0.5, "model_version": "v2"}


def test_predictions_are_imported_in_chunks(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    tasks = [label_studio.add_task(PROJECT, {}) for _ in range(230)]

    created = client.import_predictions(PROJECT, [prediction(task_id) for task_id in tasks])

    assert created == len(label_studio.predictions) == 230
    sent = label_studio.requests_to("POST", f"/api/projects/{PROJECT}/import/predictions")
    assert [len(request.body) for request in sent] == [100, 100, 30]


def test_a_task_that_is_gone_does_not_cost_the_others_their_predictions(
    label_studio: FakeLabelStudio, client: LabelStudioClient, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [label_studio.add_task(PROJECT, {}) for _ in range(9)]
    label_studio.delete_task(4)

    with caplog.at_level(logging.WARNING):
        created = client.import_predictions(PROJECT, [prediction(task_id) for task_id in tasks])

    assert created == 8
    assert {stored["task"] for stored in label_studio.predictions.values()} == set(tasks) - {4}
    assert "prediction refused task=4" in caplog.text


def test_predictions_that_label_studio_drops_silently_are_reported(
    label_studio: FakeLabelStudio, client: LabelStudioClient, caplog: pytest.LogCaptureFixture
) -> None:
    label_studio.prepare("POST", f"/api/projects/{PROJECT}/import/predictions", Reply(status=201, body={"created": 1}))

    with caplog.at_level(logging.WARNING):
        created = client.import_predictions(PROJECT, [prediction(1), prediction(2)])

    assert created == 1
    assert "predictions dropped project=7 sent=2 created=1" in caplog.text


def test_predictions_for_a_project_that_is_gone_are_an_error(client: LabelStudioClient) -> None:
    with pytest.raises(LabelStudioError, match=r"answered 404 to POST /api/projects/9/import/predictions: No Project"):
        client.import_predictions(9, [prediction(1)])


# Projects, webhooks and guards


def test_projects_are_read_to_the_last_page(label_studio: FakeLabelStudio) -> None:
    for _ in range(101):
        label_studio.add_project(model_version=None)

    projects = list(LabelStudioClient(label_studio.url, LEGACY_TOKEN).projects())

    assert sorted(project.project_id for project in projects) == list(range(1, 102))
    assert {project.model_version for project in projects} == {""}


def test_a_project_with_an_odd_reply_is_named(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    label_studio.projects[PROJECT]["label_config"] = None

    with pytest.raises(LabelStudioError, match="label_config must be a string, got null"):
        client.project(PROJECT)


def test_backends_come_in_the_order_of_their_connection(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    login = {"auth_method": "BASIC_AUTH", "basic_auth_user": "captioner"}
    label_studio.connect_backend(PROJECT, "http://second:9090", id=5, **login)
    label_studio.connect_backend(PROJECT, "http://first:9090", id=2, basic_auth_user="not sent")

    backends = client.connected_backends(PROJECT)

    assert [(backend.url, backend.login) for backend in backends] == [
        ("http://first:9090", None),
        ("http://second:9090", "captioner"),
    ]


def test_a_webhook_is_read_and_mended(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    url = "http://backend:9090/webhook"
    number = label_studio.add_webhook(PROJECT, url, send_for_all_actions=False, actions=["ANNOTATION_CREATED"])

    [before] = client.webhooks(PROJECT)
    after = client.mend_webhook(number, url, {"X-Webhook-Secret": "s"})

    assert before == Webhook(
        webhook_id=number,
        url=url,
        headers={},
        is_active=True,
        is_for_all_actions=False,
        actions=["ANNOTATION_CREATED"],
        sends_payload=True,
    )
    assert after.is_for_all_actions
    assert after.headers == {"X-Webhook-Secret": "s"}
    assert client.webhooks(PROJECT) == [after]


def test_the_guards_are_tried_with_requests_that_cannot_succeed(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    label_studio.guards_backends = True

    backend_refusal = client.refuses_backend_at(PROJECT, "http://127.0.0.1:9090")
    webhook_refusal = client.refuses_webhook_to(PROJECT, "http://127.0.0.1:9090/webhook")

    assert "reserved network address" in (backend_refusal or "")
    assert webhook_refusal is None
    assert (label_studio.backends, label_studio.webhooks) == ({}, {})
    label_studio.guards_backends, label_studio.guards_webhooks = False, True
    assert client.refuses_backend_at(PROJECT, "http://127.0.0.1:9090") is None
    assert client.refuses_webhook_to(PROJECT, "http://127.0.0.1:9090/webhook") is not None
    assert (label_studio.backends, label_studio.webhooks) == ({}, {})


def test_a_guard_that_cannot_be_asked_is_no_open_guard(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    label_studio.prepare("POST", "/api/ml/", refused(502, "Bad Gateway"))

    with pytest.raises(LabelStudioError, match="answered 502 to POST /api/ml/"):
        client.refuses_backend_at(PROJECT, "http://127.0.0.1:9090")
