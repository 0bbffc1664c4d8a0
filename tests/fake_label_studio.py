"""A small Label Studio on loopback: it holds projects and annotations in memory and answers as version 1.23.2 does.

A test acts as people do (`submit`, `skip`, `delete_task`, ...). Each act changes what the HTTP API answers and adds
the webhook event of Label Studio to `events`. The test decides whether and when an event arrives. Objects begin as
copies of recorded ones (tests/payloads), so they have every key that Label Studio sends.

Observed on Label Studio 1.23.2 and easily missed:
- Events and exports have the `unique_id` of an annotation. Pages of tasks and `GET /api/annotations/<id>/` do not.
- The id of a deleted task is used again. The id of a deleted annotation is used again only by imports and by
  Create Annotations From Predictions.
- The time of a task moves with every change of its annotations, and not with its predictions.
"""

import base64
import copy
import functools
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis import Redis

from backend.label_studio.connection import nonce_of
from tests.image_server import QuietServer, send
from tests.payloads import load_payload
from tests.served import Served

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"
LABEL_CONFIG = """<View><Image name="image" value="$captioning"/><TextArea name="caption" toName="image"/></View>"""
OURS = "http://127.0.0.1:9090"
GUARDED = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
PRIVATE_ADDRESS = re.compile(r"//([^/@]*@)?(127\.|localhost|10\.|192\.168\.)")
ACCESS_TOKEN_S = 300

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request that arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """The JSON of the body, or None."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer: JSON, or bytes as they are."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeLabelStudio(Served):
    """The server, what it holds, and what people do in it. Use it as a context manager."""

    def __init__(self) -> None:
        self.projects: dict[int, Json] = {}
        self.tasks: dict[int, Json] = {}
        self.annotations: dict[int, Json] = {}
        self.predictions: dict[int, Json] = {}
        self.backends: dict[int, Json] = {}
        self.webhooks: dict[int, Json] = {}
        self.files: dict[str, bytes] = {}
        """Uploaded files by path, such as `/data/upload/1/dog.png`."""
        self.events: list[Json] = []
        """The bodies of all webhook events so far, oldest first."""
        self.requests: list[Request] = []
        self.now = datetime(2025, 1, 31, 12, tzinfo=UTC)
        """Label Studio's clock, one millisecond later after each act. A test may set it, back too."""
        self.setup_answers: dict[str, Callable[[int], str]] = {}
        """What the backend at an address answers `/setup` of a project with; others answer their recorded version."""
        self.guards_backends = False
        """Whether ML_BLOCK_LOCAL_IP is on."""
        self.guards_webhooks = False
        """Whether SSRF_PROTECTION_ENABLED is on."""
        self.allows_legacy_tokens = True
        self.personal_access_token = make_jwt("refresh", 200 * 365 * 24 * 3600)
        self.access_tokens: set[str] = set()
        """Access tokens that are accepted now. To empty it is what a changed secret key does."""
        self._prepared: dict[tuple[str, str], list[Reply | Callable[[Request], Reply]]] = {}
        self._last_annotation_id = 0
        super().__init__(QuietServer(("127.0.0.1", 0), _make_handler(self)))

    # Set up

    def add_project(self, **fields: Any) -> int:
        """Add a project with the plain captioning config; return its id."""
        project_id = int(fields.get("id") or _next_id(self.projects))
        created = {"id": project_id, "title": f"project {project_id}", "label_config": LABEL_CONFIG}
        self.projects[project_id] = _recorded("76_reply_project") | created | fields
        return project_id

    def connect_backend(self, project_id: int, url: str, **fields: Any) -> int:
        """Connect a backend as Settings > Model does, with the webhook that Label Studio adds; return its id."""
        backend_id = int(fields.get("id") or _next_id(self.backends))
        created = {"id": backend_id, "project": project_id, "url": url, "auth_method": "NONE", "basic_auth_user": ""}
        self.backends[backend_id] = _recorded("77_reply_ml")[0] | created | fields
        webhook_url = url.rstrip("/") + "/webhook"
        if not any(hook["url"] == webhook_url and hook["project"] == project_id for hook in self.webhooks.values()):
            self.add_webhook(project_id, webhook_url)
        return backend_id

    def connect_ours(self, project_id: int, redis: Redis, url: str = OURS, version: str = "v1") -> int:
        """Connect a backend that answers `/setup` as ours does, if it has this Redis; return its id."""
        self.setup_answers[url] = lambda asked: nonce_of(redis, asked) or version
        return self.connect_backend(project_id, url)

    def add_webhook(self, project_id: int, url: str, **fields: Any) -> int:
        webhook_id = int(fields.get("id") or _next_id(self.webhooks))
        created = {"id": webhook_id, "project": project_id, "url": url}
        self.webhooks[webhook_id] = _recorded("78_reply_webhooks")[0] | created | fields
        return webhook_id

    def hold(self, *tasks: Mapping[str, Any]) -> None:
        """Hold exactly these tasks with their `annotations` and `predictions`; no event reports it."""
        for table in (self.tasks, self.annotations, self.predictions):
            table.clear()
        for task in tasks:
            fields = {name: value for name, value in task.items() if name not in {"annotations", "predictions"}}
            self.tasks[task["id"]] = _recorded_task() | {"project": 1} | fields
            place = {"task": task["id"], "project": self.tasks[task["id"]]["project"]}
            for child in task.get("annotations", ()):
                self._put_annotation({"unique_id": str(uuid.uuid4())} | child | place)
            for child in task.get("predictions", ()):
                self.predictions[child["id"]] = _recorded_prediction() | child | place

    def prepare(self, method: str, path: str, *replies: Reply | Callable[[Request], Reply]) -> None:
        """Answer this method and path with these replies, one after the other; the last one stays.

        A function may act first and then return `self.answer_by_itself(request)`.
        """
        self._prepared[method, path.rstrip("/")] = list(replies)

    # What people do

    def add_task(self, project_id: int, data: Mapping[str, Any], **fields: Any) -> int:
        """Import one task; the id of a deleted task is used again."""
        task_id, at = int(fields.get("id") or _next_id(self.tasks)), self._tick()
        created = {"id": task_id, "project": project_id, "data": dict(data), "created_at": at, "updated_at": at}
        self.tasks[task_id] = _recorded_task() | created | fields
        self._report("TASKS_CREATED", project_id, tasks=[self._task_in_event(task_id)])
        return task_id

    def submit(self, task_id: int, result: str | Sequence[Json], **fields: Any) -> int:
        """Submit a caption, or a whole result; return the id of the new annotation."""
        annotation_id = self._create_annotation(task_id, result, {"id": self._last_annotation_id + 1} | fields)
        self._report_annotation("ANNOTATION_CREATED", annotation_id)
        return annotation_id

    def skip(self, task_id: int, result: str | Sequence[Json] = (), **fields: Any) -> int:
        """Skip a task; the page also sends the suggestion that nobody approved."""
        return self.submit(task_id, result, was_cancelled=True, **fields)

    def update(self, annotation_id: int, result: str | Sequence[Json], **fields: Any) -> None:
        """Change the result of an annotation; an empty caption empties it."""
        annotation = self.annotations[annotation_id]
        took_s = (annotation["lead_time"] or 0.0) + 1.5
        annotation.update({"result": _as_result(result), "updated_at": self._tick(), "lead_time": took_s} | fields)
        self._touch(annotation["task"])
        self._report_annotation("ANNOTATION_UPDATED", annotation_id)

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation; to cancel a skip is the same."""
        project_id = self.annotations[annotation_id]["project"]
        self.convert_to_draft(annotation_id)
        self._report("ANNOTATIONS_DELETED", project_id, annotations=[{"id": annotation_id}])

    def convert_to_draft(self, annotation_id: int) -> None:
        """Turn an annotation into a draft. The annotation is gone then, and no event reports it."""
        task_id = self.annotations.pop(annotation_id)["task"]
        self._tick()
        self._touch(task_id)

    def create_from_predictions(self, task_ids: Iterable[int]) -> list[int]:
        """Make an annotation of the newest prediction of each task, as the data manager's action does."""
        created = []
        for task_id in task_ids:
            prediction = self._children(self.predictions, task_id)[-1]
            fields = {"parent_prediction": prediction["id"], "lead_time": None, "result_count": 0, "updated_by": None}
            created.append(self.import_annotation(task_id, prediction["result"], **fields))
        annotations = [copy.deepcopy(self.annotations[number]) for number in created]
        tasks = [self._task_in_event(annotation["task"]) for annotation in annotations]
        self._report("ANNOTATIONS_CREATED", annotations[0]["project"], annotation=annotations, task=tasks)
        return created

    def import_annotation(self, task_id: int, result: str | Sequence[Json], **fields: Any) -> int:
        """Add an annotation as the import of a task does: a deleted id is used again, and no event reports it."""
        imported = {"id": _next_id(self.annotations), "lead_time": None}
        return self._create_annotation(task_id, result, imported | fields)

    def delete_task(self, task_id: int) -> None:
        """Delete a task; its annotations and predictions go without an event of their own."""
        project_id = self.tasks.pop(task_id)["project"]
        for table in (self.annotations, self.predictions):
            for child in self._children(table, task_id):
                del table[child["id"]]
        self._tick()
        self._report("TASKS_DELETED", project_id, tasks=[{"id": task_id}])

    def add_prediction(self, task_id: int, caption: str, model_version: str, **fields: Any) -> int:
        """Store a prediction; the time of the task does not move."""
        number = int(fields.get("id") or _next_id(self.predictions))
        created = {"id": number, "task": task_id, "project": self.tasks[task_id]["project"]}
        created |= {"result": [_region(caption)], "model_version": model_version}
        self.predictions[number] = _recorded_prediction() | created | fields
        return number

    # The HTTP API

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request, a prepared one where there is one."""
        self.requests.append(request)
        if prepared := self._prepared.get((request.method, request.path.rstrip("/"))):
            reply = prepared.pop(0) if len(prepared) > 1 else prepared[0]
            return reply(request) if callable(reply) else reply
        return self.answer_by_itself(request)

    def answer_by_itself(self, request: Request) -> Reply:
        """Return the reply that Label Studio would give."""
        for method, pattern, is_open, handle in _ROUTES:
            if method == request.method and (match := re.fullmatch(pattern, request.path.rstrip("/"))):
                refusal = None if is_open else self._unauthorized(request)
                return refusal or handle(self, request, *map(int, match.groups()))
        return refused(404, "Not found")

    def requests_to(self, method: str, path: str) -> list[Request]:
        """Return the requests to this method and path so far, oldest first."""
        wanted = method, path.rstrip("/")
        return [request for request in self.requests if (request.method, request.path.rstrip("/")) == wanted]

    def _refresh_token(self, request: Request) -> Reply:
        if request.body.get("refresh") != self.personal_access_token:
            return _recorded_refusal("unknown personal access token")
        token = make_jwt("access", ACCESS_TOKEN_S)
        self.access_tokens.add(token)
        return Reply(body={"access": token})

    def _token_settings(self, _request: Request) -> Reply:
        return Reply(body={"api_tokens_enabled": True, "legacy_api_tokens_enabled": self.allows_legacy_tokens})

    def _list_projects(self, request: Request) -> Reply:
        page, page_size = int(request.query.get("page", 1)), int(request.query.get("page_size", 30))
        projects = sorted(self.projects.values(), key=lambda project: int(project["id"]), reverse=True)
        shown = projects[(page - 1) * page_size : page * page_size]
        if not shown and page > 1:
            return _recorded_refusal("page past the end")
        following = f"{self.url}/api/projects/?page={page + 1}" if page * page_size < len(projects) else None
        results = [_only(project, request.query.get("include")) for project in shown]
        return Reply(body={"count": len(projects), "next": following, "previous": None, "results": results})

    def _get_project(self, _request: Request, project_id: int) -> Reply:
        project = self.projects.get(project_id)
        return Reply(body=project) if project else refused(404, "No Project matches the given query.")

    def _change_project(self, request: Request, project_id: int) -> Reply:
        titles = {it["title"] for it in self.backends.values() if it["project"] == project_id}
        versions = {it["model_version"] for it in self.predictions.values() if it["project"] == project_id}
        if request.body.get("model_version", "") not in {"", *titles, *versions}:
            return _recorded_refusal("unknown model version")
        self.projects[project_id] |= request.body
        self._report("PROJECT_UPDATED", project_id)
        return Reply(body=self.projects[project_id])

    def _list_versions(self, _request: Request, project_id: int) -> Reply:
        """List the versions of a project's predictions; like Label Studio, name the chosen one in any case."""
        stored = [it for it in self.predictions.values() if it["project"] == project_id]
        counts = Counter(str(prediction["model_version"]) for prediction in stored)
        if chosen := self.projects[project_id]["model_version"]:
            counts[chosen] += 0
        return Reply(body=dict(counts))

    def _list_tasks(self, request: Request) -> Reply:
        query = json.loads(request.query.get("query", "{}"))
        mine = [task for task in self.tasks.values() if str(task["project"]) == request.query["project"]]
        tasks = sorted((task for task in mine if self._is_selected(task, query)), key=lambda task: int(task["id"]))
        if query.get("ordering") == ["-tasks:id"]:
            tasks.reverse()
        page, page_size = int(request.query.get("page", 1)), int(request.query.get("page_size", 30))
        shown = tasks[(page - 1) * page_size : page * page_size]
        if not shown and page > 1:
            return _recorded_refusal("page past the end")
        include, details = request.query.get("include"), request.query.get("fields") == "all"
        totals = {"total_annotations": len(self.annotations), "total_predictions": len(self.predictions)}
        pages = [self._task_in_page(task, include, details=details) for task in shown]
        return Reply(body={**totals, "total": len(tasks), "tasks": pages})

    def _get_task(self, _request: Request, task_id: int) -> Reply:
        if task_id not in self.tasks:
            return refused(404, "No Task matches the given query.")
        task = self._task_in_page(self.tasks[task_id], None, details=True)
        template = _recorded("73_reply_task")["annotations"][0]["completed_by"]
        for annotation in task["annotations"]:  # of all replies only this one names the whole user
            annotation["completed_by"] = template | {"id": annotation["completed_by"]}
        return Reply(body=task)

    def _get_annotation(self, _request: Request, annotation_id: int) -> Reply:
        annotation = self.annotations.get(annotation_id)
        return Reply(body=_in_page(annotation)) if annotation else _recorded_refusal("unknown annotation")

    def _annotate(self, request: Request, task_id: int) -> Reply:
        if task_id not in self.tasks:
            return refused(404, "No Task matches the given query.")
        annotation_id = self.submit(task_id, request.body["result"], lead_time=None)
        return Reply(body=_in_page(self.annotations[annotation_id]), status=201)

    def _import_predictions(self, request: Request, project_id: int) -> Reply:
        if project_id not in self.projects:
            return refused(404, "No Project matches the given query.")
        mine = {task_id for task_id, task in self.tasks.items() if task["project"] == project_id}
        if any(prediction["task"] not in mine for prediction in request.body):
            return _recorded_refusal("task of a prediction is gone")
        for prediction in request.body:
            number = _next_id(self.predictions)
            self.predictions[number] = _recorded_prediction() | {"id": number, "project": project_id} | prediction
        return Reply(body={"created": len(request.body)}, status=201)

    def _list_backends(self, request: Request) -> Reply:
        """List a project's backends; like Label Studio, ask each for its version before."""
        project_id = int(request.query["project"])
        backends = [it for it in self.backends.values() if it["project"] == project_id]
        for backend in backends:
            if (answer := self.setup_answers.get(backend["url"])) and backend["readable_state"] == "Connected":
                backend["model_version"] = answer(project_id)
        return Reply(body=backends)

    def _create_backend(self, request: Request) -> Reply:
        fields = dict(request.body)
        if self.guards_backends and PRIVATE_ADDRESS.search(fields["url"]):
            return refused(403, GUARDED)
        if fields.get("auth_method") == "BASIC_AUTH" and not fields.get("basic_auth_user"):
            return _recorded_refusal("backend without its login")
        backend_id = self.connect_backend(fields.pop("project"), fields.pop("url"), **fields)
        return Reply(body=self.backends[backend_id], status=201)

    def _list_webhooks(self, request: Request) -> Reply:
        return Reply(body=[it for it in self.webhooks.values() if str(it["project"]) == request.query["project"]])

    def _create_webhook(self, request: Request) -> Reply:
        if refusal := self._refuse_webhook(request.body):
            return refusal
        fields = dict(request.body)
        webhook_id = self.add_webhook(fields.pop("project"), fields.pop("url"), **fields)
        return Reply(body=self.webhooks[webhook_id], status=201)

    def _change_webhook(self, request: Request, webhook_id: int) -> Reply:
        if refusal := self._refuse_webhook(request.body):
            return refusal
        self.webhooks[webhook_id] |= request.body
        return Reply(body=self.webhooks[webhook_id])

    def _upload(self, request: Request) -> Reply:
        content = self.files.get(request.path)
        return _recorded_refusal("unknown upload") if content is None else Reply(body=content)

    def _refuse_webhook(self, webhook: Mapping[str, Any]) -> Reply | None:
        if self.guards_webhooks and PRIVATE_ADDRESS.search(webhook.get("url", "")):
            return refused(403, GUARDED)
        return _recorded_refusal("webhook for an unknown action") if "NONE" in webhook.get("actions", ()) else None

    def _unauthorized(self, request: Request) -> Reply | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Token":
            if token != LEGACY_TOKEN:
                return _recorded_refusal("unknown legacy token")
            return None if self.allows_legacy_tokens else _recorded_refusal("legacy tokens switched off")
        return None if scheme == "Bearer" and token in self.access_tokens else _recorded_refusal("no credentials")

    def _is_selected(self, task: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
        if "selectedItems" in query:
            return task["id"] in query["selectedItems"]["included"]
        return all(self._passes(task, item) for item in query.get("filters", {}).get("items", ()))

    def _passes(self, task: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
        column = item["filter"].removeprefix("filter:tasks:")
        value = task["id"] if column == "id" else self._counts(task["id"])[column]
        return bool({"greater": value > item["value"], "equal": value == item["value"]}[item["operator"]])

    def _counts(self, task_id: int) -> dict[str, int]:
        """Return how many annotations a task has; skipped ones are counted apart."""
        skipped = [annotation["was_cancelled"] for annotation in self._children(self.annotations, task_id)]
        predictions = len(self._children(self.predictions, task_id))
        counts = {"total_annotations": skipped.count(False), "cancelled_annotations": skipped.count(True)}
        return counts | {"total_predictions": predictions}

    def _task_in_page(self, task: Json, include: str | None, *, details: bool) -> Json:
        template = _recorded("71_reply_tasks")["tasks"][0]
        whole = {name: task.get(name, value) for name, value in template.items()} | self._counts(task["id"])
        whole["updated_by"] = [] if task["updated_by"] is None else [{"user_id": task["updated_by"]}]
        annotations = [_only(_in_page(it), include) for it in self._children(self.annotations, task["id"])]
        whole |= {"annotations": annotations, "predictions": self._children(self.predictions, task["id"])}
        if not details:
            del whole["annotations"], whole["predictions"]
        return _only(whole, include)

    def _task_in_event(self, task_id: int) -> Json:
        counts = self._counts(task_id)
        return copy.deepcopy(self.tasks[task_id]) | counts | {"is_labeled": counts["total_annotations"] > 0}

    def _children(self, table: Mapping[int, Json], task_id: int) -> list[Json]:
        return sorted((it for it in table.values() if it["task"] == task_id), key=lambda child: int(child["id"]))

    def _create_annotation(self, task_id: int, result: str | Sequence[Json], fields: Json) -> int:
        at = self._tick()
        created = {"task": task_id, "project": self.tasks[task_id]["project"], "result": _as_result(result)}
        created |= {"unique_id": str(uuid.uuid4()), "created_at": at, "updated_at": at, "parent_prediction": None}
        self._touch(task_id)
        return self._put_annotation(created | fields)

    def _put_annotation(self, fields: Json) -> int:
        annotation = load_payload_copy("20_webhook_ANNOTATION_CREATED_accepted")["body"]["annotation"] | fields
        self.annotations[annotation["id"]] = annotation
        self._last_annotation_id = max(self._last_annotation_id, annotation["id"])
        return int(annotation["id"])

    def _touch(self, task_id: int) -> None:
        self.tasks[task_id]["updated_at"] = _written(self.now)

    def _tick(self) -> str:
        self.now += timedelta(milliseconds=1)
        return _written(self.now)

    def _report_annotation(self, action: str, annotation_id: int) -> None:
        annotation = copy.deepcopy(self.annotations[annotation_id])
        task = self._task_in_event(annotation["task"])
        self._report(action, annotation["project"], annotation=annotation, task=task)

    def _report(self, action: str, project_id: int, **objects: Any) -> None:
        template = load_payload_copy("20_webhook_ANNOTATION_CREATED_accepted")["body"]["project"]
        changed = {name: value for name, value in self.projects[project_id].items() if name != "created_by"}
        project = {name: changed.get(name, value) for name, value in template.items()}
        self.events.append({"action": action, **objects, "project": project})


def refused(status: int, detail: str) -> Reply:
    """Return a refusal as Label Studio words it."""
    _, body = _recorded("82_reply_refusals")["no credentials"]
    return Reply(body=body | {"status_code": status, "detail": detail}, status=status)


def make_jwt(token_type: str, lifetime_s: int) -> str:
    """Return a token that says when it was made and when it ends; nobody checks its signature here."""
    now = int(time.time())
    claims = {"token_type": token_type, "iat": now, "exp": now + lifetime_s, "jti": uuid.uuid4().hex, "user_id": "1"}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b"signature"]).decode()


# Method, path, whether it is answered without a token, and the function that answers.
_ROUTES: Sequence[tuple[str, str, bool, Callable[..., Reply]]] = (
    ("GET", "/health", True, lambda *_: Reply(body={"status": "UP"})),
    ("GET", "/api/version", True, lambda *_: Reply(body=_recorded("80_reply_version"))),
    ("POST", "/api/token/refresh", True, FakeLabelStudio._refresh_token),
    ("GET", "/api/current-user/whoami", False, lambda *_: Reply(body=_recorded("79_reply_whoami"))),
    ("GET", "/api/jwt/settings", False, FakeLabelStudio._token_settings),
    ("GET", "/api/projects", False, FakeLabelStudio._list_projects),
    ("GET", r"/api/projects/(\d+)", False, FakeLabelStudio._get_project),
    ("PATCH", r"/api/projects/(\d+)", False, FakeLabelStudio._change_project),
    ("GET", r"/api/projects/(\d+)/model-versions", False, FakeLabelStudio._list_versions),
    ("POST", r"/api/projects/(\d+)/import/predictions", False, FakeLabelStudio._import_predictions),
    ("GET", "/api/tasks", False, FakeLabelStudio._list_tasks),
    ("GET", r"/api/tasks/(\d+)", False, FakeLabelStudio._get_task),
    ("POST", r"/api/tasks/(\d+)/annotations", False, FakeLabelStudio._annotate),
    ("GET", r"/api/annotations/(\d+)", False, FakeLabelStudio._get_annotation),
    ("GET", "/api/ml", False, FakeLabelStudio._list_backends),
    ("POST", "/api/ml", False, FakeLabelStudio._create_backend),
    ("GET", "/api/webhooks", False, FakeLabelStudio._list_webhooks),
    ("POST", "/api/webhooks", False, FakeLabelStudio._create_webhook),
    ("PATCH", r"/api/webhooks/(\d+)", False, FakeLabelStudio._change_webhook),
    ("GET", "/data/upload/.*", False, FakeLabelStudio._upload),
)


def _make_handler(label_studio: FakeLabelStudio) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two writes; with Nagle's algorithm the second one waits 40 ms.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def _answer(self) -> None:
            address = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(
                method=self.command,
                path=address.path,
                query=dict(parse_qsl(address.query)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=json.loads(content) if content else None,
            )
            reply = label_studio.answer(request)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            content_type = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
            send(self, reply.status, body, **{"Content_Type": content_type, **reply.headers})

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def _recorded(name: str) -> Any:
    """Return a copy of a recorded reply."""
    return load_payload_copy(name)["reply"]


def _recorded_refusal(name: str) -> Reply:
    status, body = _recorded("82_reply_refusals")[name]
    return Reply(body=body, status=status)


def _recorded_task() -> Json:
    task: Json = load_payload_copy("20_webhook_ANNOTATION_CREATED_accepted")["body"]["task"]
    return task | {"file_upload": None}  # as of a task that was imported by its address


def _recorded_prediction() -> Json:
    prediction: Json = _recorded("71_reply_tasks")["tasks"][0]["predictions"][0]
    return prediction


def _in_page(annotation: Json) -> Json:
    """Return an annotation as the API shows it, which is without its `unique_id`."""
    return {name: annotation.get(name, value) for name, value in _recorded("74_reply_annotation").items()}


def _only(record: Json, include: str | None) -> Json:
    """Return the fields that the `include` of a request names."""
    return record if include is None else {name: value for name, value in record.items() if name in include.split(",")}


def _as_result(result: str | Sequence[Json]) -> list[Json]:
    if isinstance(result, str):
        return [_region(result) | {"origin": "manual"}] if result else []
    return copy.deepcopy(list(result))


def _region(caption: str) -> Json:
    identity = uuid.uuid4().hex[:10]
    return {
        "id": identity,
        "from_name": "caption",
        "to_name": "image",
        "type": "textarea",
        "value": {"text": [caption]},
    }


def _next_id(table: Mapping[int, Json]) -> int:
    return max(table, default=0) + 1


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@functools.cache
def _recorded_text(name: str) -> str:
    return json.dumps(load_payload(name))


def load_payload_copy(name: str) -> Json:
    """Return a recorded request or reply, read from disk once."""
    copied: Json = json.loads(_recorded_text(name))
    return copied
