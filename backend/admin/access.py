"""Access to everything below /admin, for people who sign in and for scripts that send HTTP basic auth.

Viewers may read, operators may also act. Another site's page can make a browser send a request with our cookie. So an
action from a browser must come from our own pages and carry their token, which no other site knows. Scripts need none.
"""

import time
from http import HTTPStatus
from typing import Any

import flask_login
from flask import Flask, Request, Response, current_app, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import TooManyRequests

from backend.access.login import (
    READING,
    address,
    ask_for_login,
    is_admin,
    is_person,
    is_same_origin,
    our_page,
    refuse,
    sent_login,
    sent_name,
    write_refusal,
)
from backend.access.throttle import Throttle
from backend.admin.sessions import SESSION_COOKIE, SESSION_S, SignedOut, keep_sessions
from backend.admin.users import User, Users
from worker.audit import AuditLog

EXTENSION = "captioner-access"
SIGNING_IN = "sign_in.login"
SIGNING_OUT = "sign_in.logout"

_BROWSER_HEADERS = ("Origin", "Referer", "Sec-Fetch-Site")
PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Content security policy of the pages: only files of this backend, and no script inside a page."""


class Access:
    """Guard of everything below /admin; one for each process."""

    def __init__(self, users: Users, throttle: Throttle, audit: AuditLog, signed_out: SignedOut) -> None:
        self.users = users
        self.signed_out = signed_out
        self.audit = audit
        self._throttle = throttle
        self._tokens = CSRFProtect()

    def guard(self, app: Flask) -> None:
        """Check every request before its route runs."""
        app.extensions[EXTENSION] = self
        keep_sessions(app, self.users)
        manager = LoginManager(app)
        manager.session_protection = None  # the address of a phone changes
        manager.user_loader(self._user_of_session)
        manager.request_loader(self._user_of_basic_auth)
        # A token is valid as long as its session. _check_request decides where it is needed.
        app.config.update(WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None, WTF_CSRF_SSL_STRICT=False)
        self._tokens.init_app(app)
        app.register_error_handler(CSRFError, _without_token)
        app.before_request(self._check_request)
        app.after_request(_protect_page)

    def check_password(self, name: str, password: str, place: str | None = None) -> User | None:
        """Return the user, or None if the name or the password is wrong.

        Args:
            place: the name that a browser was given; see `Throttle.attempt`.

        Raises:
            TooManyRequests: there were too many wrong passwords.
        """
        user = self._throttle.attempt(name, address(request), place, lambda: self.users.check(name, password))
        if user is None:
            write_refusal(self.audit, name if self.users.find(name) else None)
        return user

    def _check_request(self) -> ResponseReturnValue | None:
        if not is_admin(request):
            return None
        if not self.users.is_anybody():
            return refuse(
                HTTPStatus.FORBIDDEN,
                "the admin pages are closed: set BASIC_AUTH_USER and BASIC_AUTH_PASS and restart the backend, or set "
                "ADMIN_USERS_FILE and add people with `captioner user`",
            )
        acts = request.method not in READING
        if acts and not is_same_origin(request):
            return refuse(HTTPStatus.FORBIDDEN, "this action must come from our own admin pages, not from another site")
        if request.endpoint != SIGNING_IN:
            user = current_user()
            if user is None:
                return _ask_to_sign_in()
            if acts and user.role != "operator" and request.endpoint != SIGNING_OUT:
                return refuse(HTTPStatus.FORBIDDEN, f"{user.name} is a viewer, but this action needs an operator")
        if acts and (request.endpoint == SIGNING_IN or _is_from_browser(request)):
            self._tokens.protect()
        return None

    def _user_of_session(self, name: str) -> User | None:
        signed_in_at = session.get("signed_in_at", 0.0)
        if time.time() - signed_in_at > SESSION_S or self.signed_out.is_over(name, signed_in_at):
            return None
        return self.users.find(name)

    def _user_of_basic_auth(self, request: Request) -> User | None:
        name, login = sent_name(request), sent_login(request)
        if name is None or login is None:
            return None
        try:
            return self.check_password(name, login.password or "")
        except TooManyRequests as refusal:
            g.held_back = refusal  # raised later, because templates need the user too
            return None


def access() -> Access:
    guard: Access = current_app.extensions[EXTENSION]
    return guard


def current_user() -> User | None:
    """Return the user of this request; None only on the sign-in page."""
    user = flask_login.current_user._get_current_object()
    return user if isinstance(user, User) else None


def write_down(action: str, project_id: int | None = None, **details: Any) -> None:
    """Write an action of the current user into the audit log."""
    user = current_user()
    access().audit.write(user.name if user else "somebody unknown", action, project_id, **details)


def _ask_to_sign_in() -> ResponseReturnValue:
    if "held_back" in g:
        raise g.held_back
    if not is_person(request):
        return ask_for_login()
    target = request.full_path.rstrip("?") if request.method in READING else our_page(request.form.get("back"))
    return redirect(url_for(SIGNING_IN, next=target))


def _is_from_browser(request: Request) -> bool:
    return SESSION_COOKIE in request.cookies or any(header in request.headers for header in _BROWSER_HEADERS)


def _without_token(problem: CSRFError) -> Response:
    return refuse(
        HTTPStatus.BAD_REQUEST,
        f"{problem.description} Open the page again and repeat the action. Scripts must send basic auth and no cookies",
    )


def _protect_page(response: Response) -> Response:
    """Forbid browsers to cache a page, and to run any script that is not ours."""
    if is_admin(request) and not (request.endpoint or "").endswith("static"):
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers.update(_without_host(response.location))
    return response


def _without_host(location: str | None) -> dict[str, str]:
    """Return the Location of a redirect on our host as a path: a proxy may have another name, and https."""
    path = (location or "").removeprefix(request.host_url)
    is_path = location is not None and path != location and path[:1] not in {"/", "\\"}
    return {"Location": f"/{path}"} if is_path else {}
