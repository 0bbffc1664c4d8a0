"""The fake Label Studio answers and reports in the shapes that Label Studio 1.23.2 was recorded with."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests

from tests.fake_label_studio import LEGACY_TOKEN, FakeLabelStudio
from tests.payloads import load_payload

FREE_OBJECTS = {"data", "meta", "headers", "parsed_label_config", "control_weights", "data_types", "exc_info"}
"""Objects whose keys depend on the project, not on Label Studio."""


@pytest.fixture
def project_id(label_studio: FakeLabelStudio) -> int:
    """A project with a connected backend, one corrected and one skipped task."""
    project_id = label_studio.add_project()
    label_studio.connect_backend(project_id, "http://127.0.0.1:9090")
    corrected, skipped = (label_studio.add_task(project_id, {"captioning": f"/{name}.png"}) for name in "ab")
    label_studio.add_prediction(corrected, "a dog", "v1")
    label_studio.submit(corrected, "a black dog", parent_prediction=1)
    label_studio.skip(skipped)
    return project_id


def shape_of(value: Any) -> Any:
    """Return keys and JSON types; None stands for null, which may be a value elsewhere."""
    if isinstance(value, dict):
        return {key: None if key in FREE_OBJECTS else shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    if isinstance(value, bool) or value is None:
        return None if value is None else "boolean"
    return "number" if isinstance(value, int | float) else "string"


def differences(shape: Any, recorded: Any, path: str = "") -> list[str]:
    """Return the paths at which two shapes differ; items of lists are compared with the first recorded item."""
    if shape is None or recorded is None:
        return []
    if isinstance(shape, dict) and isinstance(recorded, dict):
        pairs = [(f"{path}.{key}", shape[key], recorded[key]) for key in sorted(shape.keys() & recorded.keys())]
        missing = [f"{path}.{key}" for key in sorted(shape.keys() ^ recorded.keys())]
        return missing + [line for place, mine, other in pairs for line in differences(mine, other, place)]
    if isinstance(shape, list) and isinstance(recorded, list):
        return [line for item in shape for line in differences(item, recorded[0], f"{path}[]")] if recorded else []
    return [] if shape == recorded else [f"{path} is {shape} and not {recorded}"]


def get(label_studio: FakeLabelStudio, path: str) -> Any:
    headers = {"Authorization": f"Token {LEGACY_TOKEN}"}
    reply = requests.get(label_studio.url + path, headers=headers, timeout=5)
    assert reply.status_code == 200, reply.text
    return reply.json()


REPLIES: Mapping[str, str] = {
    "71_reply_tasks": "/api/tasks?project=1&fields=all",
    "72_reply_task_times": "/api/tasks?project=1&include=id,updated_at",
    "73_reply_task": "/api/tasks/1/",
    "74_reply_annotation": "/api/annotations/1/",
    "75_reply_projects": "/api/projects/?include=id,title,label_config,model_version,show_collab_predictions",
    "76_reply_project": "/api/projects/1/",
    "77_reply_ml": "/api/ml?project=1",
    "78_reply_webhooks": "/api/webhooks/?project=1",
    "79_reply_whoami": "/api/current-user/whoami",
    "80_reply_version": "/api/version/",
    "81_reply_token_settings": "/api/jwt/settings",
}


@pytest.mark.usefixtures("project_id")
@pytest.mark.parametrize(("recording", "path"), REPLIES.items())
def test_a_reply_has_the_recorded_keys_and_types(label_studio: FakeLabelStudio, recording: str, path: str) -> None:
    reply = get(label_studio, path)

    assert differences(shape_of(reply), shape_of(load_payload(recording)["reply"])) == []


EVENTS: Mapping[str, Callable[[FakeLabelStudio], object]] = {
    "20_webhook_ANNOTATION_CREATED_accepted": lambda label_studio: label_studio.submit(2, "a cat"),
    "25_webhook_ANNOTATION_CREATED_skipped": lambda label_studio: label_studio.skip(2),
    "27_webhook_ANNOTATION_CREATED_empty": lambda label_studio: label_studio.submit(2, ""),
    "30_webhook_ANNOTATION_UPDATED": lambda label_studio: label_studio.update(1, "a big dog"),
    "33_webhook_ANNOTATIONS_DELETED": lambda label_studio: label_studio.delete_annotation(1),
    "36_webhook_ANNOTATIONS_CREATED_bulk": lambda label_studio: label_studio.create_from_predictions([1]),
    "41_webhook_TASKS_CREATED_json": lambda label_studio: label_studio.add_task(1, {"captioning": "/c.png"}),
    "44_webhook_TASKS_DELETED": lambda label_studio: label_studio.delete_task(1),
    "47_webhook_PROJECT_UPDATED_title": lambda label_studio: requests.patch(
        f"{label_studio.url}/api/projects/1/",
        json={"title": "another"},
        headers={"Authorization": f"Token {LEGACY_TOKEN}"},
        timeout=5,
    ),
}


@pytest.mark.usefixtures("project_id")
@pytest.mark.parametrize(("recording", "act"), EVENTS.items())
def test_an_event_has_the_recorded_keys_and_types(
    label_studio: FakeLabelStudio, recording: str, act: Callable[[FakeLabelStudio], object]
) -> None:
    before = len(label_studio.events)

    act(label_studio)

    [event] = label_studio.events[before:]
    recorded = load_payload(recording)["body"]
    assert event["action"] == recorded["action"]
    assert differences(shape_of(event), shape_of(recorded)) == []


def test_the_pages_show_what_people_did(label_studio: FakeLabelStudio, project_id: int) -> None:
    label_studio.update(1, "a big dog")
    label_studio.delete_task(2)

    [task] = get(label_studio, f"/api/tasks?project={project_id}&fields=all")["tasks"]

    assert (task["total_annotations"], task["cancelled_annotations"], task["total_predictions"]) == (1, 0, 1)
    assert [annotation["result"][0]["value"]["text"] for annotation in task["annotations"]] == [["a big dog"]]
    assert task["updated_at"] == task["annotations"][0]["updated_at"]


def test_ids_are_used_again_where_label_studio_does_so(label_studio: FakeLabelStudio, project_id: int) -> None:
    label_studio.delete_annotation(2)
    label_studio.delete_task(2)

    assert label_studio.add_task(project_id, {"captioning": "/c.png"}) == 2
    assert label_studio.import_annotation(2, "imported") == 2
    label_studio.delete_annotation(2)
    assert label_studio.submit(2, "submitted") == 3


@pytest.mark.usefixtures("project_id")
@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        ({}, "Authentication credentials were not provided."),
        ({"Authorization": "Token " + "0" * 40}, "Invalid token."),
        ({"Authorization": f"Token {LEGACY_TOKEN}"}, "legacy token authentication has been disabled"),
    ],
)
def test_a_request_without_an_accepted_token_is_refused(
    label_studio: FakeLabelStudio, authorization: dict[str, str], detail: str
) -> None:
    label_studio.allows_legacy_tokens = False

    reply = requests.get(f"{label_studio.url}/api/projects/", headers=authorization, timeout=5)

    assert reply.status_code == 401
    assert detail in reply.json()["detail"]
