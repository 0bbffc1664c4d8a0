"""Label Studio's HTTP API: tasks, predictions, projects, webhooks and connected backends.

Tasks and annotations are passed on as JSON, for `backend.protocol` to read. Everything else becomes one of our types
here. Paths, replies and pitfalls were observed on Label Studio 1.23.2 (docs/label-studio.md).

The client of label-studio-sdk 2.1.2 is not used. It would double the cost of a job's start (1.0 s and 89 MB of
memory; the SDK's projects and tasks import pandas and add 0.85 s and 57 MB). It also repeats failed requests by itself,
and it trusts our clock for the end of an access token.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field

from backend.label_studio.api_key import KeyKind
from backend.label_studio.http import READ_TIMEOUT_S, LabelStudioHttp, LabelStudioRefusalError
from backend.protocol.json_fields import JsonObject, WholeNumber, parse_created
from model.errors import LabelStudioError
from worker.settings import Settings

logger = logging.getLogger(__name__)

TASKS_PER_SELECTION = 200
"""The address of a request contains the ids of its tasks, and proxies cut addresses at 8 kB."""
TASK_FIELDS = (
    "id,data,annotations,predictions,task,project,result,was_cancelled,updated_at,completed_by,lead_time,ground_truth,"
    "parent_prediction,created_at"
)
"""The fields that we read of tasks and, by the same list, of annotations. All fields would take three times as long."""
PROJECT_FIELDS = "id,title,label_config,model_version,show_collab_predictions,created_at"
PREDICTIONS_PER_REQUEST = 100

Task = dict[str, Any]
"""A task as Label Studio's data manager sends it: id, data, annotations, predictions, ..."""

_TextOrNull = Annotated[str, BeforeValidator(lambda text: text or "")]


class _Record(JsonObject):
    """A type that is parsed from a reply, or made by keyword in Python."""

    model_config = ConfigDict(validate_by_name=True)


class Project(_Record):
    """The fields of a project that we need."""

    project_id: WholeNumber = Field(validation_alias="id")
    title: str
    label_config: str
    model_version: _TextOrNull
    """The title of the backend that prelabels live, or a prediction's version. Empty means no prelabeling."""
    prelabels: bool = Field(validation_alias="show_collab_predictions")
    """True if annotators see predictions."""
    created: Annotated[int | None, BeforeValidator(parse_created)] = Field(default=None, validation_alias="created_at")
    """Unix time of its creation."""


class ConnectedBackend(_Record):
    """An ML backend that is connected to a project."""

    backend_id: WholeNumber = Field(validation_alias="id")
    url: str
    title: str
    state: str = Field(validation_alias="readable_state")
    """Connected, Disconnected, Error, Training or Predicting."""
    model_version: str | None
    """The version in its last answer to `/setup`."""
    auth_method: str
    basic_auth_user: str | None

    @property
    def login(self) -> str | None:
        """The user that Label Studio sends as basic auth, or None."""
        return self.basic_auth_user if self.auth_method == "BASIC_AUTH" else None


class Webhook(_Record):
    """A webhook of a project."""

    webhook_id: WholeNumber = Field(validation_alias="id")
    url: str
    headers: Annotated[dict[str, str], BeforeValidator(lambda headers: headers or {})]
    is_active: bool
    is_for_all_actions: bool = Field(validation_alias="send_for_all_actions")
    actions: list[str]
    """The actions that it is sent for, unless it is sent for all."""
    sends_payload: bool = Field(validation_alias="send_payload")


class LabelStudioClient:
    """One Label Studio and one API key. Safe to share between threads.

    Every method may raise LabelStudioError: Label Studio cannot be reached, refuses, or sends an answer that does not
    fit its API.
    """

    def __init__(
        self, url: str, api_key: str, *, tasks_per_page: int = 500, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._api = LabelStudioHttp(url, api_key, read_timeout_s)
        self._tasks_per_page = tasks_per_page

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Return the client, or None when the API key of Label Studio is not set."""
        if not settings.label_studio_api_key:
            return None
        return cls(settings.label_studio_url, settings.label_studio_api_key.get_secret_value())

    def authorization(self) -> dict[str, str]:
        """Return the header that authenticates us. It may be sent only to Label Studio's own host."""
        return self._api.api_key.authorization()

    def forget_access(self, refused: str | None) -> bool:
        """Drop the access token that Label Studio refused in this header; return True if there can be a new one."""
        return self._api.api_key.forget_access(refused)

    @property
    def url(self) -> str:
        return self._api.url

    @property
    def key_kind(self) -> KeyKind:
        return self._api.api_key.kind

    # Tasks

    def annotated_task_times(self, project_id: int) -> dict[int, str]:
        """Return the time of the last change of each task with an annotation, by task id; skipped ones do not count.

        The time changes with the task's annotations, and not with its predictions. Reading only the times is seven
        times cheaper than reading the tasks.
        """
        return self._times(project_id, _filter("total_annotations", "greater", 0))

    def skipped_task_times(self, project_id: int) -> dict[int, str]:
        """Return the time of the last change of each task that somebody skipped, by task id."""
        return self._times(project_id, _filter("cancelled_annotations", "greater", 0))

    def tasks(self, project_id: int, task_ids: Iterable[int]) -> Iterator[Task]:
        """Yield these tasks of a project; annotations and predictions are complete."""
        ids = list(task_ids)
        for start in range(0, len(ids), TASKS_PER_SELECTION):
            chosen = {"selectedItems": {"all": False, "included": ids[start : start + TASKS_PER_SELECTION]}}
            yield from self._page(project_id, chosen, TASKS_PER_SELECTION).tasks

    def unannotated_tasks(self, project_id: int, after_id: int = 0) -> Iterator[Task]:
        """Yield the tasks without annotations (skipped ones too) with higher ids, by id, with their predictions."""
        return self._tasks(project_id, _filter("total_annotations", "equal", 0), after_id=after_id)

    def all_tasks(self, project_id: int) -> Iterator[Task]:
        """Yield every task of a project, by id; annotations and predictions are complete."""
        return self._tasks(project_id, _filter("id", "greater", 0))

    def any_task(self, project_id: int) -> Task | None:
        """Return the newest task of a project, or None when it has none."""
        page = self._page(project_id, {"ordering": ["-tasks:id"]}, page_size=1)
        return page.tasks[0] if page.tasks else None

    def count_unannotated_tasks(self, project_id: int, after_id: int = 0) -> int:
        query = _query(_filter("total_annotations", "equal", 0), _filter("id", "greater", after_id))
        return self._page(project_id, query, page_size=1).total

    def task(self, task_id: int) -> Task:
        """Return a task with its raw data."""
        return self._api.ask("GET", f"api/tasks/{task_id}/", Task, params={"resolve_uri": "false"})

    def annotation(self, annotation_id: int) -> dict[str, Any] | None:
        """Return an annotation, or None when there is none with this id."""
        try:
            return self._api.ask("GET", f"api/annotations/{annotation_id}/", dict[str, Any])
        except LabelStudioRefusalError as refusal:
            if refusal.status == 404:
                return None
            raise

    def create_annotation(self, task_id: int, result: Sequence[Mapping[str, Any]]) -> int:
        """Add an annotation of the API key's user to a task, as if it was submitted; return its id."""
        created = self._api.ask("POST", f"api/tasks/{task_id}/annotations/", _Created, json={"result": list(result)})
        return created.annotation_id

    def import_predictions(self, project_id: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions (task, result, score, model_version); return how many Label Studio stored.

        Label Studio drops invalid predictions without an error. It refuses all predictions when one of their tasks is
        gone. Such tasks are identified, logged and left out.
        """
        starts = range(0, len(predictions), PREDICTIONS_PER_REQUEST)
        chunks = (predictions[start : start + PREDICTIONS_PER_REQUEST] for start in starts)
        return sum(self._import_chunk(project_id, chunk) for chunk in chunks)

    # Projects, backends and webhooks

    def projects(self) -> Iterator[Project]:
        """Yield the projects the API key may see."""
        number, is_last = 1, False
        while not is_last:
            query = {"page": number, "page_size": 100, "include": PROJECT_FIELDS}
            page = self._api.ask("GET", "api/projects/", _ProjectPage, params=query)
            yield from page.results
            number, is_last = number + 1, page.next is None

    def project(self, project_id: int) -> Project:
        return self._api.ask("GET", f"api/projects/{project_id}/", Project)

    def prelabel_with(self, project_id: int, title: str) -> None:
        """Let the connected backend with this title prelabel the project's tasks."""
        change = {"show_collab_predictions": True, "model_version": title}
        self._api.ask("PATCH", f"api/projects/{project_id}/", Project, json=change)

    def connected_backends(self, project_id: int) -> list[ConnectedBackend]:
        """Return a project's backends, the first connected first; Label Studio asks each for health and setup."""
        backends = self._api.ask("GET", "api/ml", list[ConnectedBackend], params={"project": project_id})
        return sorted(backends, key=lambda backend: backend.backend_id)

    def chosen_predictions(self, project: Project) -> str | None:
        """Return the version of stored predictions that the owner chose to be shown; None where a model prelabels."""
        version = project.model_version
        path = f"api/projects/{project.project_id}/model-versions/"
        if not version or not self._api.ask("GET", path, dict[str, int]).get(version):
            return None
        titles = {backend.title for backend in self.connected_backends(project.project_id)}
        return None if version in titles else version

    def webhooks(self, project_id: int) -> list[Webhook]:
        return self._api.ask("GET", "api/webhooks/", list[Webhook], params={"project": project_id})

    def create_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> Webhook:
        """Add a webhook for all actions, as connecting a backend does."""
        webhook = {"project": project_id, "url": url, "headers": dict(headers)}
        webhook |= {"send_payload": True, "send_for_all_actions": True}
        return self._api.ask("POST", "api/webhooks/", Webhook, json=webhook)

    def mend_webhook(self, webhook_id: int, url: str, headers: Mapping[str, str]) -> Webhook:
        """Give a webhook this address and these headers, and let it be sent with its payload for all actions."""
        change = {"url": url, "headers": dict(headers), "is_active": True}
        change |= {"send_payload": True, "send_for_all_actions": True}
        return self._api.ask("PATCH", f"api/webhooks/{webhook_id}/", Webhook, json=change)

    def refuses_backend_at(self, project_id: int, url: str) -> str | None:
        """Return why Label Studio's guard would refuse a backend at this address, or None.

        Label Studio checks the address before the credentials. These are missing, so nothing is ever stored or called.
        """
        return self._guard("api/ml/", {"url": url, "project": project_id, "auth_method": "BASIC_AUTH"})

    def refuses_webhook_to(self, project_id: int, url: str) -> str | None:
        """Return why Label Studio's guard would refuse a webhook to this address, or None.

        Label Studio checks the address before the actions. This one does not exist, so nothing is ever stored.
        """
        return self._guard("api/webhooks/", {"url": url, "project": project_id, "actions": ["NONE"]})

    # The server and the key

    def server_version(self) -> str:
        return self._api.ask("GET", "api/version/", _Version).release

    def user(self) -> str:
        """Return the e-mail address of the API key's user."""
        return self._api.ask("GET", "api/current-user/whoami", _User).email

    def _times(self, project_id: int, condition: Mapping[str, Any]) -> dict[int, str]:
        tasks = self._tasks(project_id, condition, include="id,updated_at")
        return {int(task["id"]): str(task["updated_at"]) for task in tasks}

    def _tasks(
        self, project_id: int, condition: Mapping[str, Any], include: str | None = None, after_id: int = 0
    ) -> Iterator[Task]:
        # By id and not by page number: tasks that leave the filter meanwhile would shift the pages.
        query = _query(condition, _filter("id", "greater", after_id))
        while tasks := self._page(project_id, query, include=include).tasks:
            yield from tasks
            query = _query(condition, _filter("id", "greater", max(int(task["id"]) for task in tasks)))

    def _page(
        self, project_id: int, query: Mapping[str, Any], page_size: int | None = None, include: str | None = None
    ) -> "_TaskPage":
        """Return the first tasks that match a query; with `include` only these fields, which is much faster."""
        page_size = page_size or self._tasks_per_page
        params = {"project": project_id, "page": 1, "page_size": page_size, "query": json.dumps(query)}
        params |= {"include": include} if include else {"fields": "all", "include": TASK_FIELDS}
        # Otherwise addresses such as s3:// would differ from those in webhooks and in /predict.
        params |= {"resolve_uri": "false"}
        return self._api.ask("GET", "api/tasks", _TaskPage, params=params)

    def _import_chunk(self, project_id: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        path = f"api/projects/{project_id}/import/predictions"
        try:
            created = self._api.ask("POST", path, _Imported, json=list(predictions)).created
        except LabelStudioRefusalError as refusal:
            if refusal.status != 400:
                raise
            if len(predictions) == 1:
                logger.warning("prediction refused task=%s reason=%s", predictions[0]["task"], refusal)
                return 0
            middle = len(predictions) // 2
            halves = predictions[:middle], predictions[middle:]
            return sum(self._import_chunk(project_id, half) for half in halves)
        if created != len(predictions):
            logger.warning("predictions dropped project=%s sent=%s created=%s", project_id, len(predictions), created)
        return created

    def _guard(self, path: str, incomplete: Mapping[str, Any]) -> str | None:
        try:
            self._api.ask("POST", path, Any, json=incomplete)
        except LabelStudioRefusalError as refusal:
            if refusal.status == 403:
                return str(refusal)
            if refusal.status == 400:
                return None
            raise
        raise LabelStudioError(f"Label Studio at {self._api.url} accepted an incomplete request at {path}")


class _TaskPage(JsonObject):
    """Some of the tasks that match a query, and how many match it."""

    tasks: list[Task]
    total: WholeNumber


class _ProjectPage(JsonObject):
    results: list[Project]
    next: str | None


class _Imported(JsonObject):
    created: WholeNumber


class _Created(JsonObject):
    annotation_id: WholeNumber = Field(validation_alias="id")


class _Version(JsonObject):
    release: str


class _User(JsonObject):
    email: str


def _query(*filters: Mapping[str, Any]) -> dict[str, Any]:
    return {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}


def _filter(column: str, operator: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}
