"""Who may ask what on Label Studio's side, and how everybody is refused.

With BASIC_AUTH_USER set, every route of Label Studio's side needs the login. Label Studio's webhooks do not carry the
backend's login, so `/webhook` also takes WEBHOOK_SECRET in a header. `/ready` and `/metrics` hold no secrets and are
open. What lies below /admin is guarded by `backend/admin/access.py`.
"""

import hmac
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Flask, Request, Response, jsonify, make_response, render_template, request

from backend.access.throttle import Throttle
from backend.protocol.headers import WEBHOOK_HEADER
from worker.audit import AuditLog
from worker.settings import Settings

OPEN_PATHS = ("/ready", "/metrics")
ADMIN_PATH = "/admin"

READING = ("GET", "HEAD", "OPTIONS")


def protect(app: Flask, settings: Settings, throttle: Throttle, audit: AuditLog) -> None:
    """Check every request of Label Studio's side before its route runs."""

    @app.before_request
    def check_request() -> Response | None:
        # With a secret alone the route decides, because Start Training cannot carry it.
        if settings.basic_auth_user is None or is_admin(request) or is_below(request.path, OPEN_PATHS):
            return None
        if request.path == "/webhook" and has_secret(request, settings):
            return None
        name = sent_name(request)
        if name is None:
            return ask_for_login()
        if throttle.attempt(name, address(request), None, lambda: has_login(request, settings) or None):
            return None
        write_refusal(audit, name if name == settings.basic_auth_user else None)
        return ask_for_login()


def sent_name(asked: Request) -> str | None:
    """Return the user whom HTTP basic auth names; None when it is not used."""
    login = asked.authorization
    return None if login is None or login.type != "basic" else login.username or ""


def address(asked: Request) -> str:
    """Return where a request comes from: the neighbour that connected, a proxy too."""
    return asked.remote_addr or "a socket"


def write_refusal(audit: AuditLog, name: str | None) -> None:
    """Write down a wrong password; a name that nobody has may be a password in the wrong field, and is left out."""
    audit.write(name or "somebody unknown", "sign-in refused", address=address(request), path=request.path)


def has_login(asked: Request, settings: Settings) -> bool:
    """Say whether the request carries the configured user and password; False when none is configured."""
    login = asked.authorization
    if settings.basic_auth_user is None or settings.basic_auth_pass is None or login is None or login.type != "basic":
        return False
    # Both are compared, and in constant time, so that the answer's time tells nothing.
    right_user = _equal(login.username, settings.basic_auth_user)
    right_pass = _equal(login.password, settings.basic_auth_pass.get_secret_value())
    return right_user and right_pass


def has_secret(asked: Request, settings: Settings) -> bool:
    """Say whether the request carries WEBHOOK_SECRET; False when none is configured."""
    given = asked.headers.get(WEBHOOK_HEADER)
    secret = settings.webhook_secret
    return secret is not None and given is not None and _equal(given, secret.get_secret_value())


def may_report_events(asked: Request, settings: Settings) -> bool:
    """Say whether annotations in this webhook are to be believed."""
    is_protected = settings.basic_auth_user is not None or settings.webhook_secret is not None
    return not is_protected or has_login(asked, settings) or has_secret(asked, settings)


def is_same_origin(asked: Request) -> bool:
    """Say whether a browser's request comes from our own pages; what is no browser sends none of these headers."""
    if asked.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        return False
    source = asked.headers.get("Origin") or asked.headers.get("Referer")
    if source is None:
        return True
    # Behind a proxy Host may be its inner name; a foreign page cannot set X-Forwarded-Host without our consent.
    return urlsplit(source).netloc in {asked.host, asked.headers.get("X-Forwarded-Host")}


def is_admin(asked: Request) -> bool:
    """Say whether a request is for what lies below /admin, however its path is spelled."""
    return is_below(asked.url_rule.rule if asked.url_rule else asked.path, (ADMIN_PATH,))


def is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def our_page(wanted: str | None) -> str:
    """Return the address that a browser wants to be led to if it is below /admin, else that of the overview."""
    # A line break or the like cannot stand in a header.
    is_ours = wanted is not None and wanted.isprintable() and is_below(wanted.partition("?")[0], (ADMIN_PATH,))
    return wanted if wanted is not None and is_ours else f"{ADMIN_PATH}/"


def is_person(asked: Request) -> bool:
    """Say whether a person reads the answer in a browser, and no script."""
    return asked.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"


def wants_page(asked: Request) -> bool:
    """Say whether to answer by a page: to people, but for the facts that they want as JSON."""
    is_fact = asked.method in READING and is_below(asked.path, (f"{ADMIN_PATH}/api",))
    return is_admin(asked) and not is_fact and is_person(asked)


def refuse(status: HTTPStatus, sentence: str) -> Response:
    """Return an error as every route answers it: one line, whatever a library had to say after it."""
    line = sentence.partition("\n")[0]
    if wants_page(request):
        response = make_response(render_template("admin/error.html", status=status, sentence=line))
    else:
        response = jsonify(error=line)
    response.status_code = status
    return response


def ask_for_login() -> Response:
    others = ""
    if request.path == "/webhook":
        others = f", or {WEBHOOK_HEADER} with WEBHOOK_SECRET"
    elif is_admin(request):
        others = f", or a user of ADMIN_USERS_FILE; people sign in at {ADMIN_PATH}/login"
    response = refuse(
        HTTPStatus.UNAUTHORIZED, f"login needed: send BASIC_AUTH_USER and BASIC_AUTH_PASS as HTTP basic auth{others}"
    )
    # A browser would ask for the password in a window of its own, and never forget it.
    if "Sec-Fetch-Mode" not in request.headers and not is_person(request):
        response.headers["WWW-Authenticate"] = 'Basic realm="captioner", charset="UTF-8"'
    return response


def _equal(given: str | None, expected: str) -> bool:
    return hmac.compare_digest((given or "").encode(), expected.encode())
