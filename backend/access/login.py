"""Login for the routes that Label Studio calls, and the answer to every refused request.

With BASIC_AUTH_USER set, each of these routes needs the login. Label Studio's webhooks do not carry the backend's
login, so `/webhook` accepts WEBHOOK_SECRET in a header too. `/ready` and `/metrics` hold no secrets and are open.
`backend/admin/access.py` guards the paths below /admin.
"""

import hmac
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Flask, Request, Response, jsonify, make_response, render_template
from flask import request as current_request
from werkzeug.datastructures import Authorization

from backend.access.throttle import Throttle
from backend.protocol.headers import WEBHOOK_HEADER
from worker.audit import AuditLog
from worker.settings import Settings

OPEN_PATHS = ("/ready", "/metrics")
ADMIN_PATH = "/admin"

READING = ("GET", "HEAD", "OPTIONS")


def protect(app: Flask, settings: Settings, throttle: Throttle, audit: AuditLog) -> None:
    """Check the login of every request outside /admin before its route runs."""

    @app.before_request
    def check_request() -> Response | None:
        # With WEBHOOK_SECRET alone the route decides, because Start Training cannot send it.
        if settings.basic_auth_user is None or is_admin(current_request) or is_below(current_request.path, OPEN_PATHS):
            return None
        if current_request.path == "/webhook" and has_secret(current_request, settings):
            return None
        name = sent_name(current_request)
        if name is None:
            return ask_for_login()
        if throttle.attempt(name, address(current_request), None, lambda: has_login(current_request, settings) or None):
            return None
        write_refusal(audit, name if name == settings.basic_auth_user else None)
        return ask_for_login()


def sent_login(request: Request) -> Authorization | None:
    """Return the HTTP basic auth of a request; None where it has none that can be read."""
    try:
        login = request.authorization
    except ValueError:  # Werkzeug decodes only ASCII
        return None
    return login if login is not None and login.type == "basic" else None


def sent_name(request: Request) -> str | None:
    """Return the user name of HTTP basic auth; None where the request has none."""
    login = sent_login(request)
    return None if login is None else login.username or ""


def address(request: Request) -> str:
    """Return the address that connected to us; behind a proxy that is the proxy."""
    return request.remote_addr or "a socket"


def write_refusal(audit: AuditLog, name: str | None) -> None:
    """Record a wrong password in the audit log.

    Args:
        name: a user name that exists; None for any other, because it may be a password typed into the wrong field.
    """
    audit.write(
        name or "somebody unknown", "sign-in refused", address=address(current_request), path=current_request.path
    )


def has_login(request: Request, settings: Settings) -> bool:
    """Return True if the request carries the configured user and password."""
    login = sent_login(request)
    if settings.basic_auth_user is None or settings.basic_auth_pass is None or login is None:
        return False
    # Both are compared in constant time, so that the time of the answer reveals nothing.
    right_user = _equal(login.username, settings.basic_auth_user)
    right_pass = _equal(login.password, settings.basic_auth_pass.get_secret_value())
    return right_user and right_pass


def has_secret(request: Request, settings: Settings) -> bool:
    """Return True if WEBHOOK_SECRET is set and the request carries it."""
    secret, header = settings.webhook_secret, request.headers.get(WEBHOOK_HEADER)
    return secret is not None and header is not None and _equal(header, secret.get_secret_value())


def may_report_events(request: Request, settings: Settings) -> bool:
    """Return True if we trust the annotations in this webhook."""
    is_protected = settings.basic_auth_user is not None or settings.webhook_secret is not None
    return not is_protected or has_login(request, settings) or has_secret(request, settings)


def is_same_origin(request: Request) -> bool:
    """Return True if the request comes from our own pages or from a program that is not a browser."""
    if request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        return False
    source = request.headers.get("Origin") or request.headers.get("Referer")
    if source is None:
        return True
    # Behind a proxy, Host may be an internal name. A page of another site cannot set X-Forwarded-Host (CORS).
    return urlsplit(source).netloc in {request.host, request.headers.get("X-Forwarded-Host")}


def is_admin(request: Request) -> bool:
    """Return True if the request is for a path below /admin, however the path is spelled."""
    return is_below(request.url_rule.rule if request.url_rule else request.path, (ADMIN_PATH,))


def is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def our_address(path: str | None) -> str:
    """Return where a browser, maybe behind a proxy, finds this page; the overview if it is not below /admin."""
    return current_request.script_root + our_page(path)


def our_page(path: str | None) -> str:
    """Return the path if it is below /admin, else the path of the overview."""
    # A line break must not get into a header.
    if path is not None and path.isprintable() and is_below(path.partition("?")[0], (ADMIN_PATH,)):
        return path
    return f"{ADMIN_PATH}/"


def is_person(request: Request) -> bool:
    """Return True if a person reads the answer in a browser, and False for a program."""
    return request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"


def wants_page(request: Request) -> bool:
    """Return True if the answer must be a page: for people below /admin, but not where they read JSON."""
    reads_json = request.method in READING and is_below(request.path, (f"{ADMIN_PATH}/api",))
    return is_admin(request) and not reads_json and is_person(request)


def refuse(status: HTTPStatus, sentence: str) -> Response:
    """Return an error in the form that all routes use: one line, without the further lines of a library's message."""
    line = sentence.partition("\n")[0]
    if wants_page(current_request):
        response = make_response(render_template("admin/error.html", status=status, sentence=line))
    else:
        response = jsonify(error=line)
    response.status_code = status
    return response


def ask_for_login() -> Response:
    others = ""
    if current_request.path == "/webhook":
        others = f", or {WEBHOOK_HEADER} with WEBHOOK_SECRET"
    elif is_admin(current_request):
        others = f", or a user of ADMIN_USERS_FILE; people sign in at {our_address(f'{ADMIN_PATH}/login')}"
    response = refuse(
        HTTPStatus.UNAUTHORIZED, f"login needed: send BASIC_AUTH_USER and BASIC_AUTH_PASS as HTTP basic auth{others}"
    )
    # With this header a browser would ask for the password in its own window, and never forget it.
    if "Sec-Fetch-Mode" not in current_request.headers and not is_person(current_request):
        response.headers["WWW-Authenticate"] = 'Basic realm="captioner", charset="UTF-8"'
    return response


def _equal(sent: str | None, expected: str) -> bool:
    return hmac.compare_digest((sent or "").encode("utf-8", "surrogateescape"), expected.encode())
