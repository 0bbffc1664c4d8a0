"""The admin pages' contents as JSON, and their actions. `openapi.yaml` in this folder describes both.

After an action a browser is sent back to its page, which shows the outcome; a script gets the outcome as JSON.
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

from backend.access.login import our_address, wants_page
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
from backend.admin.version_records import version_tree
from backend.captioning.memory_report import memory_json, read_memory_report
from backend.captioning.services import current_services
from backend.commands.ledger_report import csv_lines, ledger_json
from backend.images.backfill import find_image_ref
from backend.images.task_images import decode_fetched
from model.errors import CaptionerError, ImageError, RequestError
from model.manifest import bundle_name, bundle_path, write_with_decoder
from worker.feedback.score_calibration import read_calibration
from worker.feedback.totals import read_ledger, read_weeks
from worker.queue.job_log import job_log

api = Blueprint("admin_api", __name__, url_prefix="/admin/api")

THUMBNAIL = (480, 360)
FIELDS = ("version", "correction", "rule")
"""Values that an action may take."""
LONGEST_VALUE = 1000
"""Characters."""


@api.get("/overview")
def overview() -> Response:
    current = read_overview(current_services(), admin_services().label_studio, redis_answers=redis_answers())
    return jsonify(asdict(current) | {"verdict": current.verdict})


@api.get("/projects/<int:project_id>")
def project(project_id: int) -> Response:
    need_project(project_id)
    services = current_services()
    versions = version_tree(services, project_id)
    status = read_project(services, project_id)
    memory = read_memory_report(services.redis, project_id, status.serving)
    return jsonify(
        project=asdict(status),
        memory=None if memory is None else memory_json(memory),
        versions=[asdict(record) for record in versions],
    )


@api.get("/projects/<int:project_id>/versions/<name>")
def version(project_id: int, name: str) -> Response:
    """Return the complete record of a version, with its samples and their attention."""
    return jsonify(asdict(find_version(project_id, name)))


@api.get("/projects/<int:project_id>/versions/<name>/bundle")
def bundle(project_id: int, name: str) -> Response:
    """Return a version as a bundle that CAPTION_BUNDLE or `captioner train --from` can name."""
    need_weights(project_id, name)
    settings, registry = current_services().settings, current_services().captioners.registry
    base = bundle_path(settings.caption_bundle)
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        path = base
        if name != registry.base_version:
            path = Path(folder)
            record = {"trained_from": registry.base_version, "project": project_id, "version": name}
            decoder = registry.decoder(project_id, name)
            write_with_decoder(path, base, decoder, name=f"{bundle_name(base)}-{name}", record=record)
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
    lines = csv_lines(current_services().feedback.records(project_id))
    name = f"attachment; filename=project-{project_id}-ledger.csv"
    return Response(lines, mimetype="text/csv", headers={"Content-Disposition": name})


@api.get("/projects/<int:project_id>/weeks")
def weeks(project_id: int) -> Response:
    """Return chart data: words of a caption that began as a suggestion, and how many of them were changed, by week."""
    need_project(project_id)
    shown = [(week.monday, week.shown) for week in reversed(read_weeks(current_services().redis, project_id))]
    means = {
        "words in a caption": [(monday, tally.mean_words) for monday, tally in shown],
        "words changed": [(monday, tally.mean_word_edits) for monday, tally in shown],
    }
    lines = {name: [[at, round(mean, 2)] for at, mean in points if mean is not None] for name, points in means.items()}
    return jsonify([{"name": name, "data": points} for name, points in lines.items()])


@api.get("/projects/<int:project_id>/edits")
def edits(project_id: int) -> Response:
    """Return chart data: the number of edits of each kind."""
    need_project(project_id)
    tallies = read_ledger(current_services().redis, project_id).versions.values()
    kinds = {kind for tally in tallies for kind in tally.kinds}
    return jsonify([[kind, sum(tally.kinds.get(kind, 0) for tally in tallies)] for kind in sorted(kinds)])


@api.get("/projects/<int:project_id>/corrections")
def corrections(project_id: int) -> Response:
    page = find_corrections(project_id)
    rows = [asdict(record) for record in page.records]
    for row, record in zip(rows, page.records, strict=True):
        row["correction"]["model_version"] = record.correction.proposed_by
    return jsonify(corrections=rows, looked_at=page.looked_at, next=page.next)


@api.get("/projects/<int:project_id>/corrections/<path:name>/image")
def image(project_id: int, name: str) -> Response:
    """Return a small copy of the image of a correction."""
    correction = current_services().feedback.find(project_id, name)
    if correction is None:
        raise NotFound(f"project {project_id} has no correction {name}")
    try:
        image_ref = find_image_ref(admin_services().client, correction)
        content = current_services().task_images.fetcher.fetch(image_ref, correction.task_id)
        picture = decode_fetched(content)
    except (ImageError, CaptionerError) as problem:
        raise NotFound(str(problem)) from problem
    picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=80)
    return Response(jpeg.getvalue(), mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


@api.get("/jobs")
def jobs() -> Response:
    return jsonify(jobs=[asdict(job) for job in find_jobs()])


@api.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    return jsonify(asdict(need_job(job_id)) | {"log": job_log(current_services().redis, job_id)})


@api.get("/jobs/<job_id>/losses")
def losses(job_id: str) -> Response:
    """Return chart data: the loss of a training after each step."""
    return jsonify([{"name": "loss, nats per word", "data": [list(point) for point in need_job(job_id).losses]}])


@api.post("/projects/<int:project_id>/<action>")
def project_action(project_id: int, action: str) -> ResponseReturnValue:
    if action not in PROJECT_ACTIONS:
        raise NotFound(f"there is no action {action!r}; the actions are {', '.join(PROJECT_ACTIONS)}")
    need_project(project_id)
    return _answer(lambda: act_on_project(current_services(), project_id, action, _fields()))


@api.post("/jobs/<job_id>/<action>")
def job_action(job_id: str, action: str) -> ResponseReturnValue:
    if action not in JOB_ACTIONS:
        raise NotFound(f"there is no action {action!r}; the actions are {', '.join(JOB_ACTIONS)}")
    record = need_job(job_id)
    return _answer(lambda: act_on_job(current_services(), record, action))


def _fields() -> dict[str, str]:
    """Return the values in the request that actions use; all others are ignored."""
    body = request.get_json() if request.is_json else request.form
    if not isinstance(body, Mapping):
        raise RequestError("the body of an action must be a JSON object, such as {}")
    fields = {name: str(body[name]) for name in FIELDS if name in body}
    for name, value in fields.items():
        if len(value) > LONGEST_VALUE:
            raise RequestError(f"{name} may have at most {LONGEST_VALUE} characters, got {len(value)}")
    return fields


def _answer(act: Callable[[], str]) -> ResponseReturnValue:
    """Do an action and answer with its outcome, on a page or as JSON."""
    is_form = wants_page(request)
    try:
        outcome = act()
    except CaptionerError as problem:
        if not is_form:
            raise
        flash(str(problem), "problem")
    else:
        if not is_form:
            return jsonify(outcome=outcome)
        flash(outcome, "done")
    return redirect(our_address(request.form.get("back")), HTTPStatus.SEE_OTHER)
