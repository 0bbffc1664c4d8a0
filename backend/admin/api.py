"""The admin's facts as JSON, and the actions of its pages; openapi.yaml beside this file describes both.

A form's action leads back to the page it was on, with the sentence it has to say; a script gets the sentence as JSON.
"""

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

from flask import Blueprint, Response, flash, jsonify, redirect, request, send_file
from flask.typing import ResponseReturnValue
from PIL import Image
from werkzeug.exceptions import NotFound

from backend.access.login import our_page, wants_page
from backend.admin.actions import JOB_ACTIONS, PROJECT_ACTIONS, act_on_job, act_on_project
from backend.admin.admin_services import admin_services, redis_answers
from backend.admin.overview import read_overview, read_project
from backend.admin.route_arguments import (
    find_corrections,
    find_jobs,
    find_version,
    need_job,
    need_project,
    need_weights,
)
from backend.admin.version_records import VersionRecord, version_tree
from backend.captioning.services import current_services
from backend.commands.ledger_report import csv_lines, ledger_json
from backend.images.backfill import find_image_ref
from model.bundle import save_bundle
from model.errors import CaptionerError, ImageError, RequestError
from model.vision.images import decode_image
from worker.feedback.score_calibration import read_calibration
from worker.feedback.totals import read_ledger
from worker.queue.job_log import job_log

api = Blueprint("admin_api", __name__, url_prefix="/admin/api")

THUMBNAIL = (480, 360)
FIELDS = ("version", "correction")
"""What an action may be told beside its project."""
MOST_CHARACTERS = 1000
"""Of a field."""


@api.get("/overview")
def overview() -> Response:
    seen = read_overview(current_services(), admin_services().label_studio, redis_answers=redis_answers())
    return jsonify(asdict(seen) | {"verdict": seen.verdict})


@api.get("/projects/<int:project_id>")
def project(project_id: int) -> Response:
    need_project(project_id)
    services = current_services()
    versions = version_tree(services, project_id)
    return jsonify(
        project=asdict(read_project(services, project_id)), versions=[asdict(version) for version in versions]
    )


@api.get("/projects/<int:project_id>/versions/<name>")
def version(project_id: int, name: str) -> Response:
    """Return all that is kept of a version, samples with their attention included."""
    return jsonify(asdict(find_version(project_id, name)))


@api.get("/projects/<int:project_id>/versions/<name>/bundle")
def bundle(project_id: int, name: str) -> Response:
    """Return a version as a bundle that CAPTION_BUNDLE or `captioner train --from` can name."""
    need_weights(project_id, name)
    known = current_services().captioners.bundle()
    captioner = current_services().captioners.registry.load(project_id, name, known)
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        path = Path(folder)
        record = {"trained_from": known.version, "project": project_id, "version": name}
        save_bundle(
            path,
            name=f"{known.name}-{name}",
            encoder=captioner.encoder,
            decoder=captioner.decoder,
            tokenizer=captioner.tokenizer,
            replay=known.replay,
            record=dict(known.record) | record,
        )
        for file in sorted(path.iterdir()):
            archive.write(file, f"{name}/{file.name}")
    content.seek(0)
    return send_file(content, "application/zip", as_attachment=True, download_name=f"project-{project_id}-{name}.zip")


@api.get("/projects/<int:project_id>/ledger")
def ledger(project_id: int) -> Response:
    need_project(project_id)
    calibration = read_calibration(current_services().store, project_id)
    return jsonify(ledger_json(read_ledger(current_services().redis, project_id), calibration))


@api.get("/projects/<int:project_id>/ledger.csv")
def ledger_csv(project_id: int) -> Response:
    need_project(project_id)
    lines = csv_lines(current_services().ledger.records(project_id))
    name = f"attachment; filename=project-{project_id}-ledger.csv"
    return Response(lines, mimetype="text/csv", headers={"Content-Disposition": name})


@api.get("/projects/<int:project_id>/learning")
def learning(project_id: int) -> Response:
    """Return the accept rate of each version that served, over the corrections it had learned, as a chart's data."""
    found = [one for one in _tree(project_id) if one.published and one.accepted_rate is not None]
    points = [[f"{one.name} ({one.corrections})", round(100 * (one.accepted_rate or 0.0), 1)] for one in found]
    return jsonify([{"name": "accepted unchanged, %", "data": points}])


@api.get("/projects/<int:project_id>/edits")
def edits(project_id: int) -> Response:
    """Return how many edits changed what, as a chart's data."""
    need_project(project_id)
    tallies = read_ledger(current_services().redis, project_id).versions.values()
    kinds = {kind for tally in tallies for kind in tally.kinds}
    return jsonify([[kind, sum(tally.kinds.get(kind, 0) for tally in tallies)] for kind in sorted(kinds)])


@api.get("/projects/<int:project_id>/corrections")
def corrections(project_id: int) -> Response:
    found = find_corrections(project_id)
    rows = [asdict(one) | {"pieces": [asdict(piece) for piece in one.pieces]} for one in found.found]
    return jsonify(corrections=rows, looked_at=found.looked_at, next=found.next)


@api.get("/projects/<int:project_id>/corrections/<path:name>/image")
def image(project_id: int, name: str) -> Response:
    """Return the image of a correction, made small."""
    correction = current_services().inbox.find(project_id, name)
    if correction is None:
        raise NotFound(f"project {project_id} has no correction {name}")
    client = admin_services().client
    try:
        content = current_services().task_images.fetcher.fetch(find_image_ref(client, correction), correction.task_id)
        picture = decode_image(content).convert("RGB")
    except (ImageError, CaptionerError) as problem:
        raise NotFound(str(problem)) from problem
    picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=80)
    return Response(written.getvalue(), mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


@api.get("/jobs")
def jobs() -> Response:
    return jsonify(jobs=[asdict(job) for job in find_jobs()])


@api.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    return jsonify(asdict(need_job(job_id)) | {"log": job_log(current_services().redis, job_id)})


@api.get("/jobs/<job_id>/losses")
def losses(job_id: str) -> Response:
    """Return the loss of a training after each step, as a chart's data."""
    return jsonify([{"name": "loss, nats per word", "data": [list(point) for point in need_job(job_id).losses]}])


@api.post("/projects/<int:project_id>/<action>")
def project_action(project_id: int, action: str) -> ResponseReturnValue:
    if action not in PROJECT_ACTIONS:
        raise NotFound(f"there is no action {action!r}; there are {', '.join(PROJECT_ACTIONS)}")
    need_project(project_id)
    return _told(lambda: act_on_project(current_services(), project_id, action, _fields()))


@api.post("/jobs/<job_id>/<action>")
def job_action(job_id: str, action: str) -> ResponseReturnValue:
    if action not in JOB_ACTIONS:
        raise NotFound(f"there is no action {action!r}; there are {', '.join(JOB_ACTIONS)}")
    found = need_job(job_id)
    return _told(lambda: act_on_job(current_services(), found, action))


def _tree(project_id: int) -> tuple[VersionRecord, ...]:
    need_project(project_id)
    return version_tree(current_services(), project_id)


def _fields() -> dict[str, str]:
    """Return what the action is told; what no action asks for is left out."""
    given = request.get_json() if request.is_json else request.form
    if not isinstance(given, Mapping):
        raise RequestError("the body of an action must be a JSON object, such as {}")
    fields = {name: str(given[name]) for name in FIELDS if name in given}
    for name, value in fields.items():
        if len(value) > MOST_CHARACTERS:
            raise RequestError(f"{name} may have {MOST_CHARACTERS} characters, got {len(value)}")
    return fields


def _told(act: Callable[[], str]) -> ResponseReturnValue:
    is_form = wants_page(request)
    try:
        said = act()
    except CaptionerError as problem:
        if not is_form:
            raise
        flash(str(problem), "problem")
    else:
        if not is_form:
            return jsonify(outcome=said)
        flash(said, "done")
    return redirect(our_page(request.form.get("back")), HTTPStatus.SEE_OTHER)
