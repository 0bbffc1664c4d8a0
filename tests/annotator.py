"""An annotator at work in process: asks the backend for suggestions and reports annotations, as Label Studio does."""

import copy
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.backend_client import LABEL_CONFIG, BackendClient
from tests.factories import make_task
from tests.payloads import load_payload

BEGAN = datetime(2025, 1, 31, 12, tzinfo=UTC)


class Annotator:
    """Annotates tasks of one project. A task's number is its id, and that of its annotation."""

    def __init__(self, backend: BackendClient, project_id: int = 1) -> None:
        self.backend, self.project_id = backend, project_id
        self._event = load_payload("20_webhook_ANNOTATION_CREATED_accepted")["body"]
        self._changes = 0

    def suggestions(self, images: dict[int, str]) -> dict[int, dict[str, Any]]:
        """Return the prediction of each task, given the address of its image."""
        tasks = [make_task(id=number, data={"captioning": address}) for number, address in images.items()]
        body = {"tasks": tasks, "project": f"{self.project_id}.1795230827", "label_config": LABEL_CONFIG}
        response = self.backend.post("/predict", body)
        assert response.status_code == 200, response.text
        return dict(zip(images, response.get_json()["results"], strict=True))

    def captions(self, images: dict[int, str]) -> dict[int, str]:
        """Return the suggested caption of each task."""
        return {number: text_of(result) for number, result in self.suggestions(images).items()}

    def caption(self, number: int, address: str) -> str:
        return self.captions({number: address})[number]

    def submit(self, number: int, address: str, caption: str, *, annotation_id: int | None = None) -> None:
        """Submit a caption; the same annotation again is an update."""
        self._changes += 1
        identity = annotation_id or number
        body = copy.deepcopy(self._event)
        moment = (BEGAN + timedelta(seconds=self._changes)).isoformat().replace("+00:00", "Z")
        body["project"]["id"] = self.project_id
        body["task"] |= {"id": number, "data": {"captioning": address}, "project": self.project_id}
        body["annotation"] |= {
            "id": identity,
            "task": number,
            "project": self.project_id,
            "unique_id": f"00000000-0000-4000-8000-{identity:012d}",
            "created_at": (BEGAN + timedelta(milliseconds=identity)).isoformat(),
            "updated_at": moment,
        }
        body["annotation"]["result"][0] |= {"value": {"text": [caption]}, "origin": "prediction-changed"}
        response = self.backend.post("/webhook", body)
        assert response.status_code in {200, 201}, response.text

    def delete(self, *annotation_ids: int) -> None:
        body = {
            "action": "ANNOTATIONS_DELETED",
            "project": self._event["project"] | {"id": self.project_id},
            "annotations": [{"id": number} for number in annotation_ids],
        }
        response = self.backend.post("/webhook", body)
        assert response.status_code in {200, 201}, response.text


def text_of(prediction: dict[str, Any]) -> str:
    """Return the caption of a prediction."""
    regions: Sequence[dict[str, Any]] = prediction["result"]
    return str(regions[0]["value"]["text"][0])
