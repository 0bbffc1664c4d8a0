"""What project owners change in a real Label Studio: fields are renamed, predictions of another model are chosen."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from backend.demo.user import LabelStudioUser
from backend.protocol.label_config import good_label_config
from tests.e2e.conftest import Connected, Product
from tests.e2e.drawn_pictures import seeds_with
from tests.image_server import png
from worker.queue.backend_jobs import enqueue_refresh
from worker.settings import Settings

IMAGE = "data:image/png;base64," + base64.b64encode(png("teal")).decode()


def fields_of(user: LabelStudioUser, project_id: int) -> list[set[str]]:
    """Return the fields that the newest prediction of each task fills."""
    tasks = sorted(user.tasks(project_id), key=lambda task: task.task_id)
    newest = [max(task.suggestions, key=lambda shown: shown.prediction_id, default=None) for task in tasks]
    return [set() if shown is None else {str(shown.region["from_name"])} for shown in newest]


def change(user: LabelStudioUser, project_id: int, **fields: Any) -> None:
    user._json("PATCH", f"/api/projects/{project_id}", json=fields)


def test_a_renamed_field_is_filled_when_a_task_is_opened_and_by_retrieve_predictions(
    product: Product, user: LabelStudioUser, connect: Callable[[Product, str, Sequence[int]], Connected]
) -> None:
    project_id = connect(product, "Renamed", seeds_with("heart", 2)).project_id
    user.retrieve_predictions(project_id)
    assert fields_of(user, project_id) == [{"caption"}, {"caption"}]

    change(user, project_id, label_config=good_label_config(control="description"))
    opened = user.next_task(project_id)
    user.retrieve_predictions(project_id)

    assert opened.prefilled is not None
    assert opened.prefilled.region["from_name"] == "description"
    assert fields_of(user, project_id) == [{"description"}, {"description"}]


def test_a_renamed_field_is_filled_by_the_refresh(
    product: Product, user: LabelStudioUser, connect: Callable[[Product, str, Sequence[int]], Connected]
) -> None:
    project_id = connect(product, "Renamed and refreshed", seeds_with("heart", 2)).project_id
    user.retrieve_predictions(project_id)

    change(user, project_id, label_config=good_label_config(control="description"))
    user._json("GET", "/api/ml", params={"project": project_id})  # as the page of the model does: it asks for /setup

    product.wait("to fill the new field", lambda: fields_of(user, project_id) == [{"description"}] * 2)


def test_imported_predictions_that_the_owner_chose_stay_on_top(product: Product, user: LabelStudioUser) -> None:
    project_id = user.create_project("Imported predictions")
    region = {"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": ["imported"]}}
    imported = {"model_version": "gpt-caps", "score": 0.9, "result": [{"id": "r1", **region}]}
    tasks = [{"data": {"image": IMAGE}, "predictions": [imported]} for _ in range(2)]
    user._json("POST", f"/api/projects/{project_id}/import", json=tasks)
    user.connect_backend(project_id, product.url)
    change(user, project_id, model_version="gpt-caps")

    with Redis.from_url(product.settings["REDIS_URL"]) as redis:
        job_id = enqueue_refresh(redis, Settings.from_env(product.settings), project_id, product.bundle_version)
    product.wait("the refresh to end", lambda: any(job.id == job_id for job in product.finished_jobs("label-studio")))
    doctor = product.run("doctor", "--repair").stdout

    assert {shown.caption for task in user.tasks(project_id) for shown in task.suggestions} == {"imported"}
    assert "your choice: annotators see the predictions of 'gpt-caps'" in doctor
    assert product.client.project(project_id).model_version == "gpt-caps"


def test_an_owner_may_choose_the_field_for_captions(product: Product, user: LabelStudioUser) -> None:
    notes = '<TextArea name="notes" toName="image" captions="true"/>'
    chosen = good_label_config().replace("</View>\n</View>", f"{notes}</View></View>")
    project_id = user.create_project("A chosen field")
    change(user, project_id, label_config=chosen)
    user._json("POST", f"/api/projects/{project_id}/import", json=[{"image": IMAGE}])
    user.connect_backend(project_id, product.url)

    opened = user.next_task(project_id)

    assert 'captions="true"' in product.client.project(project_id).label_config
    assert [shown.region["from_name"] for shown in opened.suggestions] == ["notes"]
