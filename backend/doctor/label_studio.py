"""The checks of `captioner doctor` in Label Studio: the key, the address guards, and each connected project."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from redis import RedisError

from backend.doctor.findings import Finding
from backend.images.fetcher import ImageFetcher
from backend.images.task_images import decode_fetched
from backend.label_studio.client import ConnectedBackend, LabelStudioClient, Project
from backend.label_studio.connection import WORKING, Connection, find_connection, proved_addresses
from backend.label_studio.public_address import PublicAddress
from backend.label_studio.webhooks import find_fault, mend, webhook_url
from backend.protocol.label_config import CaptionControl, parse_caption_controls, parse_caption_fields, read_image_ref
from model.errors import LabelConfigError, LabelStudioError, SettingsError, TaskError
from worker.feedback.feedback_store import FeedbackStore
from worker.queue.backend_jobs import enqueue_backend_job
from worker.redis_client import connect
from worker.settings import Settings, hide_password

SEEN = ("1.18.", "1.20.", "1.22.", "1.23.")
"""Versions of Label Studio with which the tests pass."""
UNTRIED = (
    f"this captioner was tried with Label Studio {', '.join(version.rstrip('.') for version in SEEN)} only; "
    "see docs/compatibility.md if something does not work"
)
GUARDS_OFF = "start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"
IMAGE_REMEDIES = {
    "missing": "put the file back, or delete the task",
    "unreachable": "check from this machine that the host answers",
    "slow": "check from this machine that the host answers",
    "unreadable": "replace the picture, or delete the task",
}
"""What to do about an image; the message says it for every other reason."""


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A project whose backend has proved to be ours."""

    project: Project
    ours: ConnectedBackend
    backends: tuple[ConnectedBackend, ...]
    """All of the project, in the order of connection."""
    former: Collection[str]
    """Addresses that our backend had in this project."""


def check_label_studio(settings: Settings, *, repair: bool) -> Iterator[Finding]:
    """Check everything that Label Studio shows us; repair webhooks and prelabeling if `repair`."""
    try:
        client = LabelStudioClient.from_settings(settings)
        if client is None:
            yield _no_key()
            return
        version = client.server_version()
        untried = None if version.startswith(SEEN) else UNTRIED
        yield Finding(name="Label Studio", ok=True, message=f"{version} answers at {client.url}", remedy=untried)
        yield Finding(name="API key", ok=True, message=f"the {client.key_kind} of {client.user()} is accepted")
        projects = list(client.projects())
        with connect(settings.redis_url) as redis:
            connections = [(project, find_connection(client, redis, project.project_id)) for project in projects]
            connected = [
                Connected(
                    project=project,
                    ours=connection.ours,
                    backends=connection.backends,
                    former=proved_addresses(redis, project.project_id),
                )
                for project, connection in connections
                if connection.ours is not None
            ]
            were_ours = set(FeedbackStore(redis).known_projects())
            were_ours |= {
                project.project_id for project, _ in connections if proved_addresses(redis, project.project_id)
            }
        yield from _guards(client, settings, projects, connected)
        silent = [(project, connection) for project, connection in connections if connection.is_doubtful]
        for project, connection in silent:
            # If we have other projects and never had this one, the silent model is most likely somebody else's.
            may_be_ours = project.project_id in were_ours or not connected
            yield from _silent(settings, project, connection, may_be_ours=may_be_ours)
        if not connected and not silent:
            yield _nothing_connected(settings, projects)
        for each in connected:
            yield from _project(client, settings, each, repair=repair)
    except RedisError as problem:
        message = f"it cannot be found out which projects use this captioner, because Redis does not answer: {problem}"
        yield Finding(name="projects", ok=False, message=message, remedy="correct REDIS_URL or start Redis")
    except (LabelStudioError, SettingsError) as problem:
        is_about_key = isinstance(problem, SettingsError) or getattr(problem, "status", None) == HTTPStatus.UNAUTHORIZED
        yield Finding(name="API key" if is_about_key else "Label Studio", ok=False, message=str(problem))


def _no_key() -> Finding:
    return Finding(
        name="Label Studio",
        ok=False,
        message="LABEL_STUDIO_API_KEY is not set. Uploaded images cannot be read, annotations that a webhook missed "
        "are lost, and new suggestions cannot be written",
        remedy="create a personal access token in Account & Settings and set LABEL_STUDIO_API_KEY to it",
    )


def _guards(
    client: LabelStudioClient, settings: Settings, projects: list[Project], connections: list[Connected]
) -> Iterator[Finding]:
    """Try both address guards with the address of our backend in Label Studio, or with our port on this machine."""
    if not projects:
        return
    url = connections[0].ours.url if connections else f"http://127.0.0.1:{settings.port}"
    project_id = connections[0].project.project_id if connections else projects[0].project_id
    refusals = {
        "backend addresses": client.refuses_backend_at(project_id, url),
        "webhook addresses": client.refuses_webhook_to(project_id, webhook_url(url)),
    }
    for name, refusal in refusals.items():
        message = refusal or "accepts the address of this backend"
        yield Finding(
            name=f"guard of {name}", ok=refusal is None, message=message, remedy=GUARDS_OFF if refusal else None
        )


def _nothing_connected(settings: Settings, projects: list[Project]) -> Finding:
    return Finding(
        name="projects",
        ok=False,
        message=f"none of the {len(projects)} projects has this captioner connected",
        remedy=f"Settings > Model > Connect Model, with the address of this backend (http://<host>:{settings.port})",
    )


def _project(
    client: LabelStudioClient, settings: Settings, connection: Connected, *, repair: bool
) -> Iterator[Finding]:
    name = f"project {connection.project.project_id} ({connection.project.title})"
    checks = (
        _state(connection),
        _webhook(client, settings, connection, repair=repair),
        _prelabeling(client, connection, repair=repair),
        _config(connection.project),
        _image(client, settings, connection.project),
    )
    for check in checks:
        for finding in check:
            yield Finding(**{**vars(finding), "name": f"{name}, {finding.name}"})


def _silent(settings: Settings, project: Project, connection: Connection, *, may_be_ours: bool) -> Iterator[Finding]:
    """Say that a backend may be ours or not. Nothing of such a project is examined or repaired."""
    for backend in connection.backends:
        if backend.state in WORKING:
            continue
        remedy = f"if it is this captioner, check that Label Studio can reach {backend.url}, and read the log of it"
        if settings.basic_auth_user is not None and backend.login != settings.basic_auth_user:
            remedy = (
                "if it is this captioner, edit the model in Settings > Model: Basic authentication with "
                "BASIC_AUTH_USER and BASIC_AUTH_PASS"
            )
        yield Finding(
            name=f"project {project.project_id} ({project.title}), backend",
            ok=not may_be_ours,
            message=f"Label Studio shows {backend.state} for {hide_password(backend.url)}",
            remedy=remedy,
        )


def _state(connection: Connected) -> Iterator[Finding]:
    ours = connection.ours
    yield Finding(name="backend", ok=True, message=f"{ours.state.lower()}, uses version {ours.model_version}")


def _webhook(
    client: LabelStudioClient, settings: Settings, connection: Connected, *, repair: bool
) -> Iterator[Finding]:
    project_id = connection.project.project_id
    fault = find_fault(client.webhooks(project_id), connection.ours, connection.former, settings)
    if fault is None:
        yield Finding(name="webhook", ok=True, message="reports every annotation")
        return
    message = f"the webhook {fault.reason}, so corrections do not arrive"
    if not repair:
        yield Finding(name="webhook", ok=False, message=message, remedy="captioner doctor --repair")
        return
    try:
        mend(client, project_id, connection.ours, fault, settings)
    except LabelStudioError as problem:
        yield Finding(name="webhook", ok=False, message=f"{message}; {problem}", remedy=GUARDS_OFF)
        return
    message = f"it {fault.reason} until now; {_pull_missed(settings, project_id)}"
    yield Finding(name="webhook", ok=True, repaired=True, message=message)


def _pull_missed(settings: Settings, project_id: int) -> str:
    """Let a worker pull the annotations that the webhook did not report; return a sentence about this."""
    try:
        with connect(settings.redis_url) as redis:
            enqueue_backend_job(redis, "collect_corrections", project_id)
    except RedisError:
        return "the annotations that it missed are pulled before the next training"
    return "a worker now pulls the annotations that it missed"


def _prelabeling(client: LabelStudioClient, connection: Connected, *, repair: bool) -> Iterator[Finding]:
    project, title = connection.project, connection.backends[0].title
    if connection.ours != connection.backends[0]:
        message = f"Label Studio asks only the first backend of a project, {title!r}, and this backend is not the first"
        yield Finding(name="prelabeling", ok=False, message=message, remedy="remove the other model")
        return
    if project.prelabels and project.model_version == title:
        yield Finding(name="prelabeling", ok=True, message=f"tasks are prelabeled by {title!r}")
        return
    if project.prelabels and (chosen := client.chosen_predictions(project)):
        message = f"your choice: annotators see the predictions of {chosen!r}, so this captioner writes none here"
        yield Finding(name="prelabeling", ok=True, message=message)
        return
    other = project.model_version or "nothing"
    message = f"tasks are prelabeled by {other!r} instead of this backend"
    if not project.prelabels:
        message = "prelabeling is switched off"
    if repair:
        client.prelabel_with(project.project_id, title)
    remedy = f"captioner doctor --repair, or choose {title!r} in Settings > Annotation"
    yield Finding(name="prelabeling", ok=repair, repaired=repair, message=message, remedy=None if repair else remedy)


def _config(project: Project) -> Iterator[Finding]:
    try:
        fields = parse_caption_fields(project.label_config)
    except LabelConfigError as problem:
        remedy = "choose the template Image Captioning in Settings > Labeling Interface"
        yield Finding(name="labeling config", ok=False, message=str(problem), remedy=remedy)
        return
    controls = fields.controls
    uneditable = [control.from_name for control in controls if not _is_editable(project.label_config, control)]
    yield Finding(
        name="labeling config",
        ok=True,
        message=f"captions are written into {', '.join(control.from_name for control in controls)}",
        remedy=f'add editable="true" to {", ".join(uneditable)}, so that annotators can edit a suggestion in place'
        if uneditable
        else None,
    )
    for sentence in fields.unsupported:
        yield Finding(name="labeling config", ok=True, message="a field has no captions", remedy=sentence)


def _is_editable(label_config: str, control: CaptionControl) -> bool:
    """Return True if a suggested caption can be edited in place. If not, we only give advice."""
    tags = re.findall(r"<TextArea\b[^>]*>", label_config)
    mine = [tag for tag in tags if re.search(rf"""\bname=["']{re.escape(control.from_name)}["']""", tag)]
    return any(re.search(r"""\beditable=["']true["']""", tag) for tag in mine)


def _image(client: LabelStudioClient, settings: Settings, project: Project) -> Iterator[Finding]:
    task = client.any_task(project.project_id)
    if task is None:
        yield Finding(name="images", ok=True, message="there is no task yet")
        return
    try:
        control = parse_caption_controls(project.label_config)[0]
        with connect(settings.redis_url) as redis:
            fetcher = ImageFetcher.from_settings(settings, PublicAddress(redis))
            picture = decode_fetched(fetcher.fetch(read_image_ref(task["data"], control), int(task["id"])))
    except LabelConfigError:
        return  # the check of the labeling config reports it
    except TaskError as problem:
        message = f"task {task['id']}: {problem}"
        yield Finding(name="images", ok=False, message=message, remedy=IMAGE_REMEDIES.get(problem.reason))
        return
    message = f"the image of task {task['id']} has {picture.width} x {picture.height} pixels"
    yield Finding(name="images", ok=True, message=message)
