"""The audit log as a page and as JSON."""

import re
from dataclasses import asdict

from flask import Blueprint, Response, jsonify, render_template, request
from redis import RedisError

from backend.admin.access import access
from model.errors import RequestError
from worker.audit import AuditEntry

audit_pages = Blueprint("audit", __name__)

ENTRIES_SHOWN = 50


@audit_pages.get("/admin/audit/")
def page() -> str:
    """Show a page of entries; without Redis it is empty, and the page says why."""
    try:
        entries, earlier = _read()
    except RedisError:
        return render_template("admin/audit.html", entries=[], earlier=None)
    return render_template("admin/audit.html", entries=entries, earlier=earlier)


@audit_pages.get("/admin/api/audit")
def entries() -> Response:
    """Return a page of entries, and the value of `before` that gets the next page."""
    newest, earlier = _read()
    return jsonify(entries=[asdict(entry) for entry in newest], earlier=earlier)


def _read() -> tuple[list[AuditEntry], str | None]:
    """Return the entries before the requested one, and the id of the last entry if more follow."""
    before = request.args.get("before")
    if before is not None and re.fullmatch(r"(?!0+-0+$)\d{1,19}(-\d{1,19})?", before) is None:
        raise RequestError(f"before must be the entry_id of an audit entry, such as 1738324800000-0, got {before!r}")
    newest = access().audit.read(before, ENTRIES_SHOWN + 1)
    shown = newest[:ENTRIES_SHOWN]
    return shown, shown[-1].entry_id if len(newest) > len(shown) else None
