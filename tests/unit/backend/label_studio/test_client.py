"""The client against replies recorded from Label Studio 1.23.2; tests/e2e asks the real one."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import requests
from requests_mock import Mocker

from backend.label_studio.client import LabelStudioClient, Webhook
from model.errors import LabelStudioError, SettingsError
from worker.settings import Settings

URL = "http://label-studio.test/sub"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims: Any) -> str:
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, claims))
    return b".".join([*encoded, b"signature"]).decode()


PAT = jwt(token_type="refresh", exp=8102441100, iat=1795241100)
ACCESS = jwt(token_type="access", exp=1300, iat=1000)
OTHER_ACCESS = jwt(token_type="access", exp=1600, iat=1300)
WHOAMI = {"id": 1, "email": "demo@example.com"}
WEBHOOK = {
    "id": 3,
    "organization": 1,
    "project": 1,
    "url": "http://backend:9090/webhook",
    "send_payload": True,
    "send_for_all_actions": True,
    "headers": {},
    "is_active": True,
    "actions": [],
}


def refusal(detail: str, **more: Any) -> dict[str, Any]:
    return {"id": "ea69", "version": "1.23.2", "detail": detail, "exc_info": None, **more}


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_legacy_token_is_sent_as_it_is() -> None:
    client = LabelStudioClient(URL, LEGACY)

    assert client.key_kind == "legacy token"
    assert client.authorization() == {"Authorization": f"Token {LEGACY}"}


def test_a_personal_access_token_is_exchanged_once_for_many_requests(requests_mock: Mocker) -> None:
    exchange = requests_mock.post(f"{URL}/api/token/refresh/", json={"access": ACCESS})
    whoami = requests_mock.get(f"{URL}/api/current-user/whoami", json=WHOAMI)
    client = LabelStudioClient(URL, PAT)

    users = [client.user(), client.user()]

    assert client.key_kind == "personal access token"
    assert users == ["demo@example.com"] * 2
    assert exchange.call_count == 1
    assert exchange.request_history[-1].json() == {"refresh": PAT}
    assert whoami.request_history[-1].headers["Authorization"] == f"Bearer {ACCESS}"


def test_an_access_token_is_renewed_before_its_300_seconds_end(
    requests_mock: Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests_mock.post(f"{URL}/api/token/refresh/", [{"json": {"access": ACCESS}}, {"json": {"access": OTHER_ACCESS}}])
    clock = Clock()
    monkeypatch.setattr("backend.label_studio.api_key.time", clock)
    client = LabelStudioClient(URL, PAT)

    headers = []
    for clock.now in (1000.0, 1209.0, 1211.0):
        headers.append(client.authorization()["Authorization"])

    assert headers == [f"Bearer {ACCESS}", f"Bearer {ACCESS}", f"Bearer {OTHER_ACCESS}"]


def test_an_access_token_that_died_early_is_replaced(requests_mock: Mocker) -> None:
    requests_mock.post(f"{URL}/api/token/refresh/", [{"json": {"access": ACCESS}}, {"json": {"access": OTHER_ACCESS}}])
    requests_mock.get(
        f"{URL}/api/current-user/whoami",
        [{"status_code": 401, "json": refusal("Authentication credentials were not provided.")}, {"json": WHOAMI}],
    )

    user = LabelStudioClient(URL, PAT).user()

    assert user == "demo@example.com"


def test_an_unknown_personal_access_token_says_where_to_get_one(requests_mock: Mocker) -> None:
    requests_mock.post(f"{URL}/api/token/refresh/", status_code=401, json=refusal("Token is invalid"))

    with pytest.raises(LabelStudioError, match=r"Token is invalid.*create a new one in Account & Settings"):
        LabelStudioClient(URL, PAT).user()


def test_a_refused_legacy_token_says_how_to_allow_it(requests_mock: Mocker) -> None:
    said = "legacy token authentication has been disabled for this organization"
    requests_mock.get(f"{URL}/api/current-user/whoami", status_code=401, json=refusal(said))

    with pytest.raises(LabelStudioError, match=f"{said}.*personal access token, or allow legacy") as caught:
        LabelStudioClient(URL, LEGACY).user()

    assert LEGACY not in str(caught.value)


def test_an_access_token_as_the_api_key_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="is an access token, which lives 5 minutes"):
        LabelStudioClient(URL, ACCESS)


def test_netrc_does_not_replace_our_token(
    requests_mock: Mocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine label-studio.test login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    whoami = requests_mock.get(f"{URL}/api/current-user/whoami", json=WHOAMI)

    LabelStudioClient(URL, LEGACY).user()

    assert whoami.request_history[-1].headers["Authorization"] == f"Token {LEGACY}"


@pytest.mark.parametrize("url", [URL, f"{URL}/"])
def test_a_label_studio_below_a_path_is_asked_below_it(requests_mock: Mocker, url: str) -> None:
    requests_mock.get(f"{URL}/api/version/", json={"release": "1.23.2"})

    assert LabelStudioClient(url, LEGACY).server_version() == "1.23.2"


def test_another_server_at_the_address_is_named(requests_mock: Mocker) -> None:
    requests_mock.get(f"{URL}/api/version/", text="<html>welcome to nginx</html>")

    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL must be the address of Label Studio"):
        LabelStudioClient(URL, LEGACY).server_version()


def test_a_redirect_is_not_followed_but_named(requests_mock: Mocker) -> None:
    requests_mock.get(f"{URL}/api/version/", status_code=301, headers={"Location": "https://label-studio.test/"})

    with pytest.raises(LabelStudioError, match=r"redirects to https://label-studio\.test/: set LABEL_STUDIO_URL"):
        LabelStudioClient(URL, LEGACY).server_version()


def test_an_unreachable_label_studio_is_named(requests_mock: Mocker) -> None:
    requests_mock.get(f"{URL}/api/version/", exc=requests.ConnectionError("connection refused"))

    with pytest.raises(LabelStudioError, match=r"cannot be reached at .* start it, or correct LABEL_STUDIO_URL"):
        LabelStudioClient(URL, LEGACY).server_version()


def test_tasks_are_asked_for_by_id_so_that_none_is_missed_when_others_leave(requests_mock: Mocker) -> None:
    pages = [[{"id": 3}, {"id": 8}], [{"id": 12}], []]
    asked = requests_mock.get(f"{URL}/api/tasks", [{"json": {"tasks": page, "total": 3}} for page in pages])

    tasks = list(LabelStudioClient(URL, LEGACY).unannotated_tasks(7))

    assert [task["id"] for task in tasks] == [3, 8, 12]
    queries = [json.loads(request.qs["query"][0]) for request in asked.request_history]
    assert [query["filters"]["items"][1]["value"] for query in queries] == [0, 8, 12]
    assert all(request.qs["page"] == ["1"] for request in asked.request_history)
    assert all(request.qs["resolve_uri"] == ["false"] for request in asked.request_history)


def test_times_of_annotated_and_of_skipped_tasks_are_asked_for_apart(requests_mock: Mocker) -> None:
    pages = [[{"id": 3, "updated_at": "then"}], [], [{"id": 8, "updated_at": "now"}], []]
    asked = requests_mock.get(f"{URL}/api/tasks", [{"json": {"tasks": page, "total": 1}} for page in pages])
    client = LabelStudioClient(URL, LEGACY)

    assert client.annotated_task_times(7) == {3: "then"}
    assert client.skipped_task_times(7) == {8: "now"}

    columns = [json.loads(request.qs["query"][0])["filters"]["items"][0]["filter"] for request in asked.request_history]
    assert columns == ["filter:tasks:total_annotations"] * 2 + ["filter:tasks:cancelled_annotations"] * 2


def test_chosen_tasks_are_asked_for_in_addresses_that_are_not_too_long(requests_mock: Mocker) -> None:
    asked = requests_mock.get(f"{URL}/api/tasks", json={"tasks": [{"id": 1}], "total": 1})

    list(LabelStudioClient(URL, LEGACY).tasks(7, range(1_000_000, 1_000_450)))

    assert asked.call_count == 3
    assert max(len(request.url) for request in asked.request_history) < 4_000


def test_projects_are_read_to_the_last_page(requests_mock: Mocker) -> None:
    project = {
        "id": 1,
        "title": "photos",
        "label_config": "<View/>",
        "model_version": None,
        "show_collab_predictions": True,
    }
    requests_mock.get(
        f"{URL}/api/projects/",
        [
            {"json": {"results": [project], "next": f"{URL}/api/projects/?page=2"}},
            {"json": {"results": [project | {"id": 2}], "next": None}},
        ],
    )

    projects = list(LabelStudioClient(URL, LEGACY).projects())

    assert [(project.project_id, project.model_version) for project in projects] == [(1, ""), (2, "")]


def prediction(task_id: int) -> dict[str, Any]:
    return {"task": task_id, "result": [], "score": 0.5, "model_version": "v2"}


def test_predictions_are_imported_in_chunks(requests_mock: Mocker) -> None:
    posted = requests_mock.post(
        f"{URL}/api/projects/7/import/predictions",
        status_code=201,
        json=lambda request, _: {"created": len(request.json())},
    )

    created = LabelStudioClient(URL, LEGACY).import_predictions(7, [prediction(task) for task in range(230)])

    assert created == 230
    assert [len(request.json()) for request in posted.request_history] == [100, 100, 30]


def test_one_task_that_is_gone_does_not_cost_the_others_their_predictions(
    requests_mock: Mocker, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(request: Any, context: Any) -> dict[str, Any]:
        tasks = [prediction["task"] for prediction in request.json()]
        context.status_code = 400 if 4 in tasks else 201
        return refusal("Validation error") if 4 in tasks else {"created": len(tasks)}

    requests_mock.post(f"{URL}/api/projects/7/import/predictions", json=reply)

    with caplog.at_level(logging.WARNING):
        created = LabelStudioClient(URL, LEGACY).import_predictions(7, [prediction(task) for task in range(9)])

    assert created == 8
    assert "prediction refused task=4" in caplog.text


def test_predictions_that_label_studio_drops_silently_are_reported(
    requests_mock: Mocker, caplog: pytest.LogCaptureFixture
) -> None:
    requests_mock.post(f"{URL}/api/projects/7/import/predictions", status_code=201, json={"created": 1})

    with caplog.at_level(logging.WARNING):
        created = LabelStudioClient(URL, LEGACY).import_predictions(7, [prediction(1), prediction(2)])

    assert created == 1
    assert "predictions dropped project=7 sent=2 created=1" in caplog.text


def test_predictions_for_a_project_that_is_gone_are_an_error(requests_mock: Mocker) -> None:
    requests_mock.post(f"{URL}/api/projects/7/import/predictions", status_code=404, json=refusal("No Project"))

    with pytest.raises(LabelStudioError, match=r"answered 404 to POST /sub/api/projects/7/import/predictions"):
        LabelStudioClient(URL, LEGACY).import_predictions(7, [prediction(1)])


def test_an_annotation_that_is_gone_is_none(requests_mock: Mocker) -> None:
    requests_mock.get(f"{URL}/api/annotations/5/", json={"id": 5, "was_cancelled": True})
    gone = refusal("No Annotation matches the given query.")
    requests_mock.get(f"{URL}/api/annotations/6/", status_code=404, json=gone)
    client = LabelStudioClient(URL, LEGACY)

    assert client.annotation(5) == {"id": 5, "was_cancelled": True}
    assert client.annotation(6) is None


def test_a_webhook_is_read_and_mended(requests_mock: Mocker) -> None:
    requests_mock.get(f"{URL}/api/webhooks/", json=[WEBHOOK | {"send_for_all_actions": False, "actions": ["A"]}])
    patched = requests_mock.patch(f"{URL}/api/webhooks/3/", json=WEBHOOK)
    client = LabelStudioClient(URL, LEGACY)

    [found] = client.webhooks(1)
    mended = client.mend_webhook(3, "http://backend:9090/webhook", {"X-Webhook-Secret": "s"})

    assert found == Webhook(
        webhook_id=3,
        url="http://backend:9090/webhook",
        headers={},
        is_active=True,
        actions=("A",),
        sends_payload=True,
    )
    assert mended.actions is None
    assert patched.request_history[-1].json() == {
        "url": "http://backend:9090/webhook",
        "headers": {"X-Webhook-Secret": "s"},
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": True,
    }


def test_the_guards_are_tried_with_requests_that_cannot_succeed(requests_mock: Mocker) -> None:
    guarded = refusal("URL resolves to a reserved network address (block: 127.0.0.0/8)")
    backend = requests_mock.post(f"{URL}/api/ml/", status_code=403, json=guarded)
    webhook = requests_mock.post(f"{URL}/api/webhooks/", status_code=400, json=refusal("Validation error"))
    client = LabelStudioClient(URL, LEGACY)

    backend_refused = client.refuses_backend_at(1, "http://127.0.0.1:9090")
    webhook_refused = client.refuses_webhook_to(1, "http://127.0.0.1:9090/webhook")

    assert "reserved network address" in (backend_refused or "")
    assert "basic_auth_user" not in backend.request_history[-1].json()
    assert webhook_refused is None
    assert webhook.request_history[-1].json()["actions"] == ["NONE"]


def test_without_an_api_key_there_is_no_client() -> None:
    assert LabelStudioClient.from_settings(Settings()) is None
    client = LabelStudioClient.from_settings(Settings(label_studio_api_key=LEGACY))

    assert client is not None
    assert client.url == "http://label-studio:8080/"
