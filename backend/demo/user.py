"""A person signed in to Label Studio: sends the requests that a browser sends, with its cookies.

As project owner the person creates a project and connects the backend. As annotator the person opens tasks as the label
stream and Quick View do, and submits, updates, skips and deletes. Requests and replies are those of Label Studio 1.23.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import requests

from backend.demo.child_processes import LabelStudioAccount
from backend.protocol.label_config import good_label_config
from model.errors import LabelStudioError

BACKEND_TITLE = "captioner"
FILES_PER_UPLOAD = 100
"""Label Studio answers 500 to an upload of more files."""
TIMEOUT_S = 150
"""Label Studio itself waits up to 100 s for a backend."""


@dataclass(frozen=True, kw_only=True)
class ShownSuggestion:
    """A prediction that Label Studio sends with a task."""

    prediction_id: int
    model_version: str
    caption: str
    region: Mapping[str, Any]
    """The region that the label stream copies into the new annotation."""


@dataclass(frozen=True, kw_only=True)
class ShownTask:
    """A task that Label Studio sends to the annotator."""

    task_id: int
    image_name: str
    """Name of the uploaded file, without Label Studio's prefix."""
    is_annotated: bool
    """Submitted or skipped."""
    suggestions: tuple[ShownSuggestion, ...]

    @property
    def prefilled(self) -> ShownSuggestion | None:
        """The newest suggestion, which the text area shows."""
        return max(self.suggestions, key=lambda suggestion: suggestion.prediction_id, default=None)


class LabelStudioUser:
    """One browser session. Every method may raise LabelStudioError."""

    def __init__(self, url: str, account: LabelStudioAccount) -> None:
        """Sign in with e-mail address and password."""
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # no .netrc entry may replace the session's own sign-in
        self._ask("GET", "/user/login/")
        form = {"email": account.username, "password": account.password, "persist_session": "on"}
        self._ask("POST", "/user/login/", data=form | {"csrfmiddlewaretoken": self._csrf_token()})
        self._ask("GET", "/api/current-user/whoami")

    # The project owner

    def create_project(self, title: str) -> int:
        return int(
            self._json("POST", "/api/projects/", json={"title": title, "label_config": good_label_config()})["id"]
        )

    def upload(self, project_id: int, pictures: Sequence[Path]) -> None:
        """Import picture files, in this order."""
        for start in range(0, len(pictures), FILES_PER_UPLOAD):
            files = [(path.name, (path.name, path.read_bytes())) for path in pictures[start : start + FILES_PER_UPLOAD]]
            imported = self._json("POST", f"/api/projects/{project_id}/import", files=files)
            if imported["task_count"] != len(files):
                raise LabelStudioError(f"Label Studio made {imported['task_count']} tasks of {len(files)} pictures")

    def connect_backend(self, project_id: int, url: str, user: str | None = None, password: str | None = None) -> int:
        """Connect the backend as Settings > Model does, with basic auth if a user is given; return its id."""
        backend = {"project": project_id, "url": url, "title": BACKEND_TITLE, "is_interactive": False}
        if user is not None:
            backend |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
        return int(self._json("POST", "/api/ml/", json=backend)["id"])

    def serving_version(self, backend_id: int) -> str:
        """Return the model version that the backend reports to Label Studio now."""
        return str(self._json("GET", f"/api/ml/{backend_id}")["model_version"])

    def start_training(self, backend_id: int) -> None:
        self._ask("POST", f"/api/ml/{backend_id}/train", json={"use_ground_truth": False})

    def retrieve_predictions(self, project_id: int) -> None:
        """Select all tasks in the data manager and choose Actions > Retrieve Predictions."""
        every_task = {"ordering": [], "selectedItems": {"all": True, "excluded": []}}
        self._act(project_id, "retrieve_tasks_predictions", every_task)

    def tasks(self, project_id: int) -> list[ShownTask]:
        """Return the rows of the data manager's table, with all stored predictions."""
        query = {"project": project_id, "fields": "all", "page": 1, "page_size": 1000}
        return [_parse_task(task) for task in self._json("GET", "/api/tasks", params=query)["tasks"]]

    # The annotator

    def next_task(self, project_id: int) -> ShownTask:
        """Open the next task of the label stream (Label All Tasks)."""
        return _parse_task(self._act(project_id, "next_task", {}))

    def open_task(self, project_id: int, task_id: int) -> ShownTask:
        """Open a task in Quick View."""
        return _parse_task(self._json("GET", f"/api/tasks/{task_id}", params={"project": project_id}))

    def submit(self, project_id: int, task: ShownTask, caption: str) -> int:
        """Submit a caption, left as suggested, edited or typed into an empty area; return the annotation's id."""
        suggestion = task.prefilled
        if suggestion is None:
            typed = {"id": "typed", "from_name": "caption", "to_name": "image", "type": "textarea", "origin": "manual"}
            return self._annotate(project_id, task, None, [typed | {"value": {"text": [caption]}}], {})
        origin = "prediction" if caption == suggestion.caption else "prediction-changed"
        region = {**suggestion.region, "value": {"text": [caption]}, "origin": origin}
        return self._annotate(project_id, task, suggestion, [region], {})

    def skip(self, project_id: int, task: ShownTask) -> int:
        """Skip a task. As the page does, send the suggestion too, although nobody approved it."""
        suggestion = task.prefilled
        region = [] if suggestion is None else [{**suggestion.region, "origin": "prediction"}]
        return self._annotate(project_id, task, suggestion, region, {"was_cancelled": 1})

    def update(self, project_id: int, annotation_id: int, caption: str) -> None:
        """Edit the caption of a submitted annotation and press Update."""
        path = f"/api/annotations/{annotation_id}/"
        [region] = self._json("GET", path)["result"]
        change = {"result": [{**region, "value": {"text": [caption]}}], "lead_time": 4.2}
        self._ask("PATCH", path, params={"project": project_id}, json=change)

    def convert_to_draft(self, annotation_id: int) -> None:
        """Turn an annotation into a draft. The annotation is then gone, but Label Studio sends no webhook."""
        self._ask("POST", f"/api/annotations/{annotation_id}/convert-to-draft")

    def delete_annotation(self, project_id: int, annotation_id: int) -> None:
        self._ask("DELETE", f"/api/annotations/{annotation_id}/", params={"project": project_id})

    def _annotate(
        self,
        project_id: int,
        task: ShownTask,
        suggestion: ShownSuggestion | None,
        result: Iterable[Mapping[str, Any]],
        flags: Mapping[str, int],
    ) -> int:
        annotation = {
            "result": list(result),
            "lead_time": 4.2,
            "draft_id": 0,
            "parent_prediction": suggestion.prediction_id if suggestion else None,
            "parent_annotation": None,
        }
        path, query = f"/api/tasks/{task.task_id}/annotations/", {"project": project_id, **flags}
        return int(self._json("POST", path, params=query, json=annotation)["id"])

    def _act(self, project_id: int, action: str, body: Mapping[str, Any]) -> Any:
        return self._json("POST", "/api/dm/actions", params={"id": action, "project": project_id}, json=body)

    def _json(self, method: str, path: str, **content: Any) -> Any:
        reply = self._ask(method, path, **content)
        try:
            return reply.json()
        except ValueError as cause:
            raise LabelStudioError(f"Label Studio answered {method} {path} with something else than JSON") from cause

    def _ask(self, method: str, path: str, **content: Any) -> requests.Response:
        headers = {"X-CSRFToken": self._csrf_token(), "Referer": self._url}
        try:
            reply = self._session.request(method, self._url + path, headers=headers, timeout=TIMEOUT_S, **content)
        except requests.RequestException as cause:
            raise LabelStudioError(f"Label Studio at {self._url} did not answer {method} {path}: {cause}") from cause
        if not reply.ok:
            raise LabelStudioError(f"Label Studio answered {reply.status_code} to {method} {path}: {reply.text[:300]}")
        return reply

    def _csrf_token(self) -> str:
        return self._session.cookies.get("csrftoken") or ""


def _parse_task(task: Mapping[str, Any]) -> ShownTask:
    return ShownTask(
        task_id=int(task["id"]),
        image_name=PurePosixPath(str(task["data"]["image"])).name.partition("-")[2],
        is_annotated=bool(task["total_annotations"] or task["cancelled_annotations"]),
        suggestions=tuple(
            ShownSuggestion(
                prediction_id=int(prediction["id"]),
                model_version=str(prediction["model_version"]),
                caption=str(region["value"]["text"][0]),
                region=region,
            )
            for prediction in task["predictions"]
            for region in prediction["result"]
        ),
    )
