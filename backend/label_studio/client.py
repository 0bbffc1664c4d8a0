"""Label Studio's HTTP API: tasks, predictions, webhooks, connected backends and the API key.

Paths, replies and traps were observed on Label Studio 1.23.2. Tasks and annotations are handed on as the JSON they
are, for `annotations` and `images` to read; everything else becomes a type of ours here.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from backend.label_studio.api_key import KeyKind
from backend.label_studio.http import LabelStudioHttp, LabelStudioRefusalError
from model.errors import LabelStudioError
from worker.settings import Settings

logger = logging.getLogger(__name__)

TASKS_PER_PAGE = 500
TASKS_PER_SELECTION = 200
"""Their ids travel in the address, which proxies cut at 8 kB."""
TASK_FIELDS = (
    "id,data,annotations,predictions,task,project,result,was_cancelled,updated_at,completed_by,lead_time,ground_truth,"
    "parent_prediction,unique_id"
)
"""What is read of tasks and (the same list holds for them) of annotations; everything takes three times as long."""
PROJECT_FIELDS = "id,title,label_config,model_version,show_collab_predictions"
PREDICTIONS_PER_REQUEST = 100

Task = dict[str, Any]
"""A task as Label Studio's data manager sends it: id, data, annotations, predictions, ..."""

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Project:
    """What we need to know of a project."""

    project_id: int
    title: str
    label_config: str
    model_version: str
    """The title of the backend that prelabels live, or a prediction's version, or empty: no prelabeling."""
    prelabels: bool
    """Whether annotators are shown predictions at all."""


@dataclass(frozen=True, kw_only=True)
class ConnectedBackend:
    """An ML backend as a project knows it."""

    backend_id: int
    url: str
    title: str
    state: str
    """Connected, Disconnected, Error, Training or Predicting."""
    model_version: str | None
    """What its last `/setup` answered."""
    login: str | None
    """The user Label Studio sends as basic auth, or None."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A webhook of a project."""

    webhook_id: int
    url: str
    headers: Mapping[str, str]
    is_active: bool
    actions: tuple[str, ...] | None
    """The actions it is sent for; None for all."""
    sends_payload: bool


@dataclass(frozen=True, kw_only=True)
class TokenPolicy:
    """Which API keys the organization accepts."""

    personal: bool
    legacy: bool


class LabelStudioClient:
    """One Label Studio and one API key. Safe to share between threads.

    Every method may raise LabelStudioError: Label Studio cannot be reached, refuses, or answers something else than
    its API would.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._api = LabelStudioHttp(url, api_key)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Return the client, or None when the API key of Label Studio is not set."""
        if not settings.label_studio_api_key:
            return None
        return cls(settings.label_studio_url, settings.label_studio_api_key.get_secret_value())

    def authorization(self) -> dict[str, str]:
        """Return the header that authenticates us: for downloads from Label Studio's own host, nowhere else."""
        return self._api.authorization()

    @property
    def url(self) -> str:
        return self._api.url

    @property
    def key_kind(self) -> KeyKind:
        return self._api.key_kind

    # Tasks

    def annotated_task_times(self, project_id: int) -> dict[int, str]:
        """Return when each task that has an annotation (skipped ones do not count) last changed, by task id.

        The time moves with every change of the task's annotations, and not with its predictions.
        """
        return self._times(project_id, _filter("total_annotations", "greater", 0))

    def skipped_task_times(self, project_id: int) -> dict[int, str]:
        """Return when each task that somebody skipped last changed, by task id."""
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

    def any_task(self, project_id: int) -> Task | None:
        """Return the newest task of a project, or None when it has none."""
        page = self._page(project_id, {"ordering": ["-tasks:id"]}, page_size=1)
        return page.tasks[0] if page.tasks else None

    def count_unannotated_tasks(self, project_id: int, after_id: int = 0) -> int:
        wanted = _query(_filter("total_annotations", "equal", 0), _filter("id", "greater", after_id))
        return self._page(project_id, wanted, page_size=1).total

    def task(self, task_id: int) -> Task:
        """Return a task with its raw data."""
        return self._api.ask("GET", f"api/tasks/{task_id}/", dict, params={"resolve_uri": "false"})

    def annotation(self, annotation_id: int) -> dict[str, Any] | None:
        """Return an annotation, or None when there is none with this id."""
        try:
            return self._api.ask("GET", f"api/annotations/{annotation_id}/", dict)
        except LabelStudioRefusalError as refusal:
            if refusal.status == 404:
                return None
            raise

    def import_predictions(self, project_id: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions (task, result, score, model_version); return how many Label Studio took.

        Label Studio drops invalid ones without a word and refuses all when one task is gone, so what it did not
        take is found, logged and left out.
        """
        chunks = range(0, len(predictions), PREDICTIONS_PER_REQUEST)
        return sum(
            self._import_chunk(project_id, predictions[start : start + PREDICTIONS_PER_REQUEST]) for start in chunks
        )

    # Projects, backends and webhooks

    def projects(self) -> Iterator[Project]:
        """Yield the projects the API key may see."""
        page, more = 1, True
        while more:
            query = {"page": page, "page_size": 100, "include": PROJECT_FIELDS}
            found, more = self._api.ask("GET", "api/projects/", _parse_projects, params=query)
            yield from found
            page += 1

    def project(self, project_id: int) -> Project:
        return self._api.ask("GET", f"api/projects/{project_id}/", _parse_project)

    def prelabel_with(self, project_id: int, title: str) -> None:
        """Let the connected backend with this title prelabel the project's tasks."""
        change = {"show_collab_predictions": True, "model_version": title}
        self._api.ask("PATCH", f"api/projects/{project_id}/", _parse_project, json=change)

    def connected_backends(self, project_id: int) -> list[ConnectedBackend]:
        """Return a project's backends, the first connected first; Label Studio asks each for health and setup."""
        found = self._api.ask("GET", "api/ml", _list_of(_parse_backend), params={"project": project_id})
        return sorted(found, key=lambda backend: backend.backend_id)

    def webhooks(self, project_id: int) -> list[Webhook]:
        return self._api.ask("GET", "api/webhooks/", _list_of(_parse_webhook), params={"project": project_id})

    def create_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> Webhook:
        """Add a webhook for all actions, as connecting a backend does."""
        webhook = {"project": project_id, "url": url, "headers": dict(headers)}
        webhook |= {"send_payload": True, "send_for_all_actions": True}
        return self._api.ask("POST", "api/webhooks/", _parse_webhook, json=webhook)

    def mend_webhook(self, webhook_id: int, url: str, headers: Mapping[str, str]) -> Webhook:
        """Give a webhook this address and these headers, and have it sent, whole, for all actions."""
        change = {"url": url, "headers": dict(headers), "is_active": True}
        change |= {"send_payload": True, "send_for_all_actions": True}
        return self._api.ask("PATCH", f"api/webhooks/{webhook_id}/", _parse_webhook, json=change)

    def refuses_backend_at(self, project_id: int, url: str) -> str | None:
        """Return why Label Studio's guard would refuse a backend at this address, or None.

        The address is checked before the credentials, and these are missing, so nothing is ever stored or called.
        """
        return self._guard("api/ml/", {"url": url, "project": project_id, "auth_method": "BASIC_AUTH"})

    def refuses_webhook_to(self, project_id: int, url: str) -> str | None:
        """Return why Label Studio's guard would refuse a webhook to this address, or None.

        The address is checked before the actions, and this one does not exist, so nothing is ever stored.
        """
        return self._guard("api/webhooks/", {"url": url, "project": project_id, "actions": ["NONE"]})

    # The server and the key

    def server_version(self) -> str:
        return self._api.ask("GET", "api/version/", lambda reply: str(reply["release"]))

    def user(self) -> str:
        """Return the e-mail address of the API key's user."""
        return self._api.ask("GET", "api/current-user/whoami", lambda reply: str(reply["email"]))

    def token_policy(self) -> TokenPolicy:
        return self._api.ask("GET", "api/jwt/settings", _parse_token_policy)

    def _times(self, project_id: int, wanted: Mapping[str, Any]) -> dict[int, str]:
        found = self._tasks(project_id, wanted, include="id,updated_at")
        return {int(task["id"]): str(task["updated_at"]) for task in found}

    def _tasks(
        self, project_id: int, wanted: Mapping[str, Any], include: str | None = None, after_id: int = 0
    ) -> Iterator[Task]:
        # By id and not by page number: tasks that leave the filter meanwhile would shift the pages.
        last_id = after_id
        while tasks := self._page(project_id, _query(wanted, _filter("id", "greater", last_id)), include=include).tasks:
            yield from tasks
            last_id = max(int(task["id"]) for task in tasks)

    def _page(
        self, project_id: int, query: Mapping[str, Any], page_size: int = TASKS_PER_PAGE, include: str | None = None
    ) -> "_Page":
        """Ask for the first tasks a query finds, whole or (much faster) only these fields of them."""
        asked = {"project": project_id, "page": 1, "page_size": page_size, "query": json.dumps(query)}
        asked |= {"include": include} if include else {"fields": "all", "include": TASK_FIELDS}
        # Without it s3:// and the like would not be what webhooks and /predict call them.
        asked |= {"resolve_uri": "false"}
        return self._api.ask("GET", "api/tasks", _parse_page, params=asked)

    def _import_chunk(self, project_id: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        path = f"api/projects/{project_id}/import/predictions"
        try:
            created = self._api.ask("POST", path, lambda reply: int(reply["created"]), json=list(predictions))
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
            self._api.ask("POST", path, str, json=incomplete)
        except LabelStudioRefusalError as refusal:
            if refusal.status == 403:
                return str(refusal)
            if refusal.status == 400:
                return None
            raise
        raise LabelStudioError(f"Label Studio at {self._api.url} accepted an incomplete request at {path}")


def _query(*filters: Mapping[str, Any]) -> dict[str, Any]:
    return {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}


def _filter(column: str, operator: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}


def _list_of(read: Callable[[Any], Read]) -> Callable[[Any], list[Read]]:
    return lambda reply: [read(item) for item in reply]


def _parse_projects(reply: Mapping[str, Any]) -> tuple[list[Project], bool]:
    """Return one page and whether there is another."""
    return [_parse_project(project) for project in reply["results"]], bool(reply["next"])


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Some tasks of those a filter finds."""

    tasks: list[Task]
    total: int
    """How many the filter finds."""


def _parse_page(reply: Mapping[str, Any]) -> _Page:
    return _Page(tasks=list(reply["tasks"]), total=int(reply["total"]))


def _parse_project(project: Mapping[str, Any]) -> Project:
    return Project(
        project_id=int(project["id"]),
        title=str(project["title"]),
        label_config=str(project["label_config"]),
        model_version=str(project["model_version"] or ""),
        prelabels=bool(project["show_collab_predictions"]),
    )


def _parse_backend(backend: Mapping[str, Any]) -> ConnectedBackend:
    return ConnectedBackend(
        backend_id=int(backend["id"]),
        url=str(backend["url"]),
        title=str(backend["title"]),
        state=str(backend["readable_state"]),
        model_version=backend["model_version"],
        login=backend["basic_auth_user"] if backend["auth_method"] == "BASIC_AUTH" else None,
    )


def _parse_webhook(webhook: Mapping[str, Any]) -> Webhook:
    return Webhook(
        webhook_id=int(webhook["id"]),
        url=str(webhook["url"]),
        headers=dict(webhook["headers"] or {}),
        is_active=bool(webhook["is_active"]),
        actions=None if webhook["send_for_all_actions"] else tuple(webhook["actions"]),
        sends_payload=bool(webhook["send_payload"]),
    )


def _parse_token_policy(reply: Mapping[str, Any]) -> TokenPolicy:
    return TokenPolicy(personal=bool(reply["api_tokens_enabled"]), legacy=bool(reply["legacy_api_tokens_enabled"]))
