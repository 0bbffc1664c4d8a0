"""The HTTP routes that Label Studio calls: bodies are checked here, and other modules act (docs/label-studio.md)."""

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from flask import Blueprint, Response, jsonify, request
from pydantic import BeforeValidator, Field
from redis import RedisError
from rq.job import Job
from rq.serializers import JSONSerializer
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from backend.access.login import may_report_events, refuse
from backend.captioning.backend import CaptionBackend
from backend.captioning.promotion import promote_version
from backend.captioning.services import current_services
from backend.error_answers import MAX_BODY_BYTES
from backend.label_studio.connection import nonce_of
from backend.protocol.headers import WEBHOOK_HEADER
from backend.protocol.json_fields import (
    JsonObject,
    ProjectId,
    Text,
    WholeNumber,
    parse_created,
    parse_json,
)
from backend.protocol.label_config import parse_caption_fields
from backend.protocol.webhook_events import START_TRAINING
from model.errors import RequestError
from worker.audit import AuditLog
from worker.feedback.left_projects import why_left
from worker.queue.job_failure import cause

routes = Blueprint("label_studio", __name__)

Body = TypeVar("Body")


Created = Annotated[int | None, BeforeValidator(parse_created)]
"""Unix time of the project's creation; Label Studio sends it behind the id."""


class OfProject(JsonObject):
    project: ProjectId


class SetupBody(OfProject):
    label_config: Text = Field(validation_alias="schema")
    created: Created = Field(validation_alias="project")
    hostname: Any = None
    """The address that Label Studio has for browsers."""


class TaskToCaption(JsonObject):
    id: WholeNumber
    data: dict[str, Any]


class PredictParams(JsonObject):
    context: dict[str, Any] | None = None
    """Text that the annotator has typed; None outside interactive calls."""


class PredictBody(JsonObject):
    tasks: list[TaskToCaption]
    project: ProjectId
    created: Created = Field(validation_alias="project")
    label_config: Text
    params: Annotated[PredictParams | None, BeforeValidator(lambda params: params or None)] = None


class WebhookBody(JsonObject):
    action: Text
    created: Created = Field(None, validation_alias="project")


class VersionsBody(JsonObject):
    project: ProjectId | None


class JobStatusBody(JsonObject):
    job: Text


class ValidateBody(JsonObject):
    config: Text


class DuplicateModelBody(JsonObject):
    project_src: ProjectId
    project_dst: ProjectId


@routes.get("/")
@routes.get("/health")
def health() -> Response:
    return jsonify(status="UP", model_class=CaptionBackend.__name__)


@routes.post("/setup")
def setup() -> Response:
    """Answer the serving version. Label Studio calls this for every page, so no weights are loaded here.

    While the backends of the project prove which of them is ours, the answer is a nonce
    (backend/label_studio/connection.py).
    """
    body = read_body(SetupBody)
    backend = CaptionBackend(body.project, body.label_config)
    backend.services.projects.note(backend.project_id, body.created)
    backend.services.public_address.note(body.hostname)
    had_left = False
    with suppress(RedisError):
        if nonce := nonce_of(backend.services.redis, backend.project_id):
            return jsonify(model_version=nonce)
        had_left = why_left(backend.services.redis, backend.project_id) is not None
    backend.services.new_projects.welcome(backend.project_id, had_left=had_left)
    form = backend.services.form_of(backend.project_id, backend.controls)
    backend.services.begin_form(backend.project_id, form)
    return jsonify(model_version=backend.services.label_of(backend.project_id, form))


@routes.post("/predict")
def predict() -> Response:
    body = read_body(PredictBody)
    backend = CaptionBackend(body.project, body.label_config)
    backend.services.projects.note(backend.project_id, body.created)
    typed = body.params.context if body.params else None
    context = None if typed is None else typed or {"result": []}
    return jsonify(results=backend.predict([vars(task) for task in body.tasks], context=context))


@routes.post("/webhook")
def webhook() -> tuple[Response, int] | Response:
    """Store the feedback of an annotator, then answer: Label Studio waits one second and does not repeat the call."""
    body = read_body(dict[str, Any])
    read = parse_json(WebhookBody, body)
    action = read.action
    # Start Training cannot send the headers of the webhook, and it reports no annotations that we would have to trust.
    if action != START_TRAINING and not may_report_events(request, current_services().settings):
        return refuse(HTTPStatus.UNAUTHORIZED, f"send {WEBHOOK_HEADER} with WEBHOOK_SECRET")
    reply = CaptionBackend().fit(action, body, created=read.created)
    has_effect = "job" in reply or reply["changed"] > 0
    return jsonify(reply), HTTPStatus.CREATED if has_effect else HTTPStatus.OK


@routes.post("/train")
def train() -> tuple[Response, int]:
    """Start a training, as Start Training does; Label Studio before 1.4.1 calls this route."""
    return jsonify(job=CaptionBackend().start_training(read_body(OfProject).project)), HTTPStatus.CREATED


@routes.route("/versions", methods=["GET", "POST"])
def versions() -> Response:
    """List a project's versions, oldest first; without a project, the bundle's version, which all projects have."""
    if request.method == "GET":
        project_id = parse_json(VersionsBody, {"project": request.args.get("project")}).project
    else:
        project_id = read_body(VersionsBody).project
    captioners = current_services().captioners
    base_version = captioners.registry.base_version
    if project_id is None:
        return jsonify(versions=[base_version])
    of_project = captioners.registry.versions(project_id)
    can_serve = [version.name for version in of_project if version.published and not version.pruned]
    return jsonify(versions=[base_version, *can_serve], model_version=captioners.version_of(project_id))


@routes.post("/job_status")
def job_status() -> Response:
    job_id = read_body(JobStatusBody).job
    try:
        job = Job.fetch(job_id, connection=current_services().redis, serializer=JSONSerializer)
    except ValueError as problem:  # RQ's ids have letters, digits, dots, dashes and underscores
        raise RequestError(f"job must be the id of a job, got {job_id[:60]!r}") from problem
    times = {name: getattr(job, name) for name in ("created_at", "enqueued_at", "started_at", "ended_at")}
    return jsonify(
        job_status=job.get_status(),
        error=cause(job),
        progress=job.get_meta(),
        **{name: moment and moment.isoformat() for name, moment in times.items()},
    )


@routes.post("/validate")
def validate() -> Response:
    """Return the text areas of a labeling config that would get captions, and what gets none."""
    fields = parse_caption_fields(read_body(ValidateBody).config)
    return jsonify(valid=True, controls=[vars(control) for control in fields.controls], without=fields.unsupported)


@routes.post("/delete")
def delete() -> Response:
    """Let the bundle serve a project again. The project's versions stay; `captioner promote` can choose them again."""
    project_id = read_body(OfProject).project
    services = current_services()
    base_version = services.captioners.registry.base_version
    outcome = promote_version(services.settings, project_id, base_version, by="POST /delete")
    return jsonify(model_version=base_version, outcome=outcome)


@routes.post("/duplicate_model")
def duplicate_model() -> Response:
    """Copy the version that serves one project to another project."""
    body = read_body(DuplicateModelBody)
    source, target = body.project_src, body.project_dst
    captioners = current_services().captioners
    version = captioners.version_of(source)
    if version == captioners.registry.base_version:
        return jsonify(model_version=captioners.version_of(target))
    copy = captioners.registry.copy(source, version, target)
    audit = AuditLog(current_services().redis)
    audit.write("POST /duplicate_model", "version copied", target, version=copy.name, source=source)
    return jsonify(model_version=copy.name)


def read_body(kind: type[Body]) -> Body:
    """Return the request's JSON as this type.

    Raises:
        RequestError: it is no JSON, lacks a key or holds a wrong type.
        HTTPException: it is not declared as JSON (415), or too large (413).
    """
    if not request.is_json:
        raise UnsupportedMediaType("the body must be JSON, sent with Content-Type: application/json")
    # A body that declares its length is refused unread. Of a chunked body Werkzeug returns the first MAX_BODY_BYTES.
    content = request.get_data(cache=False)
    if len(content) >= MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    try:
        body = json.loads(content)
        if b"\\ud" in content.lower():
            # JSON may spell half a surrogate pair, which no file and no Redis can hold.
            body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as cause:
        raise RequestError(f"the body is not valid JSON: {cause}") from cause
    return parse_json(kind, body)
