"""Who may ask what: Label Studio, its webhooks, and the admin's pages.

With BASIC_AUTH_USER set, every route of Label Studio's side and the admin's needs the login. Label Studio's webhooks
do not carry the backend's login (CONTRACT.md section 5), so `/webhook` also takes WEBHOOK_SECRET in a header.
`/ready` and `/metrics` hold no secrets and are open.
"""

import hmac
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Flask, Request, Response, jsonify, request

from worker.settings import Settings

WEBHOOK_HEADER = "X-Webhook-Secret"
OPEN_PATHS = ("/ready", "/metrics")
ADMIN_PATH = "/admin"

_READING = ("GET", "HEAD", "OPTIONS")


def protect(app: Flask, settings: Settings) -> None:
    """Check every request before its route runs."""

    @app.before_request
    def check_request() -> Response | None:
        if _is_below(request.path, OPEN_PATHS):
            return None
        if _is_below(request.path, (ADMIN_PATH,)):
            return _check_admin(settings)
        if has_login(request, settings) or (request.path == "/webhook" and has_secret(request, settings)):
            return None
        # With a secret alone the route decides, because Start Training cannot carry it.
        return None if settings.basic_auth_user is None else _ask_for_login()


def has_login(asked: Request, settings: Settings) -> bool:
    """Say whether the request carries the configured user and password; False when none is configured."""
    login = asked.authorization
    if settings.basic_auth_user is None or settings.basic_auth_pass is None or login is None or login.type != "basic":
        return False
    # Both are compared, and in constant time, so that the answer's time tells nothing.
    right_user = _equal(login.username, settings.basic_auth_user)
    right_pass = _equal(login.password, settings.basic_auth_pass)
    return right_user and right_pass


def has_secret(asked: Request, settings: Settings) -> bool:
    """Say whether the request carries WEBHOOK_SECRET; False when none is configured."""
    given = asked.headers.get(WEBHOOK_HEADER)
    return settings.webhook_secret is not None and given is not None and _equal(given, settings.webhook_secret)


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


def _check_admin(settings: Settings) -> Response | None:
    if settings.basic_auth_user is None:
        return refuse(
            HTTPStatus.FORBIDDEN,
            "the admin pages are closed: set BASIC_AUTH_USER and BASIC_AUTH_PASS and restart the backend",
        )
    if not has_login(request, settings):
        return _ask_for_login()
    # A browser adds the login to requests that foreign pages make it send. rq-dashboard also acts on GET /requeue/.
    acts = request.method not in _READING or "/requeue/" in request.path
    if acts and not is_same_origin(request):
        return refuse(
            HTTPStatus.FORBIDDEN, "this action must come from the admin pages themselves, not from another site"
        )
    return None


def refuse(status: HTTPStatus, sentence: str) -> Response:
    """Return an error as every route answers it: one line, whatever a library had to say after it."""
    response = jsonify(error=sentence.partition("\n")[0])
    response.status_code = status
    return response


def _ask_for_login() -> Response:
    response = refuse(
        HTTPStatus.UNAUTHORIZED,
        "login needed: send BASIC_AUTH_USER and BASIC_AUTH_PASS as HTTP basic auth"
        + (f", or {WEBHOOK_HEADER} with WEBHOOK_SECRET" if request.path == "/webhook" else ""),
    )
    response.headers["WWW-Authenticate"] = 'Basic realm="captioner", charset="UTF-8"'
    return response


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _equal(given: str | None, expected: str) -> bool:
    return hmac.compare_digest((given or "").encode(), expected.encode())
