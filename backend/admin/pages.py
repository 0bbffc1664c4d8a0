"""The admin pages. `api.py` serves everything on them as JSON."""

from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import chartkick
from flask import Blueprint, Response, render_template, request, send_from_directory
from markupsafe import Markup

from backend.admin.admin_services import admin_services, redis_answers
from backend.admin.correction_search import latest_edits
from backend.admin.job_records import STATES, recent_jobs
from backend.admin.overview import read_overview, read_project
from backend.admin.project_status import project_name
from backend.admin.route_arguments import find_corrections, find_jobs, find_version, need_job, need_project
from backend.admin.version_records import gained_words, newest_versions, read_examples, version_tree
from backend.captioning.memory_report import read_memory_report
from backend.captioning.services import current_services
from worker.feedback.edit_kinds import EDIT_KINDS
from worker.feedback.score_calibration import read_calibration
from worker.feedback.totals import read_ledger, read_weeks
from worker.queue.control import RetrainingControl
from worker.queue.job_log import job_log

admin = Blueprint("admin", __name__, url_prefix="/admin")

_CHARTS = Path(chartkick.__file__).parent / "django" / "static" / "chartkick"
_NEED_NO_REDIS = {"admin.overview", "admin.charts"}


@admin.before_request
def explain_missing_redis() -> str | None:
    """Replace every page that needs Redis by a notice while Redis does not answer."""
    return None if request.endpoint in _NEED_NO_REDIS or redis_answers() else render_template("admin/away.html")


@admin.get("/")
def overview() -> str:
    current = read_overview(current_services(), admin_services().label_studio, redis_answers=redis_answers())
    return render_template("admin/overview.html", overview=current)


@admin.get("/projects/<int:project_id>/")
def project(project_id: int) -> str:
    need_project(project_id)
    services = current_services()
    tree = version_tree(services, project_id)
    status = read_project(services, project_id)
    return render_template(
        "admin/project.html",
        project_id=project_id,
        project=status,
        memory=read_memory_report(services.redis, project_id, status.serving),
        weeks=read_weeks(services.redis, project_id),
        examples=read_examples(services.captioners.registry, project_id, status.serving),
        latest=latest_edits(services.feedback, project_id),
        tree=tree,
        shown=newest_versions(tree),
        words=gained_words(tree),
        ledger=read_ledger(services.redis, project_id),
        calibration=read_calibration(services.store, project_id),
        first_score=services.captioners.bundle().first_score if services.captioners.is_loaded else None,
        kinds=EDIT_KINDS,
        jobs=recent_jobs(services.redis, project_id=project_id),
        state=RetrainingControl(services.redis, services.settings).state(project_id),
    )


@admin.get("/projects/<int:project_id>/versions/<name>/")
def version(project_id: int, name: str) -> str:
    need_project(project_id)
    services, model_version = current_services(), find_version(project_id, name)
    record = next(record for record in version_tree(services, project_id) if record.name == name)
    return render_template(
        "admin/version.html",
        project_id=project_id,
        project_name=project_name(services.redis, project_id),
        version=model_version,
        record=record,
        memory=read_memory_report(services.redis, project_id, name) if record.serves else None,
    )


@admin.get("/projects/<int:project_id>/corrections/")
def corrections(project_id: int) -> str:
    page = find_corrections(project_id)
    name = project_name(current_services().redis, project_id)
    return render_template(
        "admin/corrections.html", project_id=project_id, project_name=name, page=page, search=request.args
    )


@admin.get("/jobs/")
def jobs() -> str:
    return render_template("admin/jobs.html", jobs=find_jobs(), states=STATES, state=request.args.get("state", ""))


@admin.get("/jobs/<job_id>/")
def job(job_id: str) -> str:
    return render_template("admin/job.html", job=need_job(job_id), log=job_log(current_services().redis, job_id))


@admin.get("/charts/<path:name>")
def charts(name: str) -> Response:
    """Return a script of the installed chart library."""
    return send_from_directory(_CHARTS, name, max_age=86_400)


@admin.app_template_filter("share")
def share(value: object) -> str:
    """Return a number from 0 to 1 as per cent."""
    return f"{value:.0%}" if _is_known(value) else "–"


@admin.app_template_filter("nats")
def nats(value: object) -> str:
    """Return a loss with three decimals."""
    return f"{value:.3f}" if _is_known(value) else "–"


@admin.app_template_filter("duration")
def duration(seconds: float | None) -> str:
    """Return a duration in its best unit."""
    if seconds is None:
        return "–"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@admin.app_template_filter("moment")
def moment(written: str | None) -> str:
    """Return an ISO 8601 time in UTC as an element that admin.js rewrites for the reader's time zone."""
    if not written:
        return "–"
    words = f"{written[:16].replace('T', ' ')} UTC"
    return Markup('<time datetime="{}">{}</time>').format(written, words)


@admin.app_template_filter("decimal")
def decimal(value: object) -> str:
    """Return a number with one decimal."""
    return f"{value:.1f}" if _is_known(value) else "–"


@admin.app_template_filter("thousands")
def thousands(value: int) -> str:
    """Return a whole number with a comma between thousands."""
    return f"{value:,}"


def _is_known(value: object) -> TypeGuard[float]:
    """Return True for a finite number. Old versions lack some numbers, and a diverged training has no finite loss."""
    return isinstance(value, int | float) and isfinite(value)


@admin.app_context_processor
def helpers() -> dict[str, Any]:
    return {"here": request.full_path.rstrip("?"), "redis_answers": redis_answers}
