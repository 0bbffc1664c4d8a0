"""Who may see and act below /admin: people who sign in, and scripts that send HTTP basic auth.

Viewers read, operators act. A browser adds cookie and login also to requests that foreign pages make it send, so what
acts must come from our own pages and carry their token, which no other site knows. Scripts need no token.
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
    sent_name,
    write_refusal,
)
from backend.access.throttle import Throttle
from backend.admin.sessions import SESSION_COOKIE, SESSION_S, keep_sessions
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
"""What a page may load and run: nothing but what comes from here, and no script that stands in it."""


class Access:
    """The guard of everything below /admin; one for each process."""

    def __init__(self, users: Users, throttle: Throttle, audit: AuditLog) -> None:
        self.users = users
        self.audit = audit
        self._throttle = throttle
        self._tokens = CSRFProtect()

    def guard(self, app: Flask) -> None:
        """Check every request before its route runs."""
        app.extensions[EXTENSION] = self
        keep_sessions(app, self.users)
        manager = LoginManager(app)
        manager.session_protection = None  # a phone changes its address
        manager.user_loader(self._user_of_session)
        manager.request_loader(self._user_of_basic_auth)
        # A token is good as long as its session; where it is asked for is decided here.
        app.config.update(WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None, WTF_CSRF_SSL_STRICT=False)
        self._tokens.init_app(app)
        app.register_error_handler(CSRFError, _without_token)
        app.before_request(self._check_request)
        app.after_request(_protect_page)

    def check_password(self, name: str, password: str, place: str | None = None) -> User | None:
        """Return the user, or None for a wrong name or password.

        Args:
            place: the browser's name, if it is one; see `Throttle.attempt`.

        Raises:
            TooManyRequests: there were too many wrong ones.
        """
        found = self._throttle.attempt(name, address(request), place, lambda: self.users.check(name, password))
        if found is None:
            write_refusal(self.audit, name if self.users.find(name) else None)
        return found

    def _check_request(self) -> ResponseReturnValue | None:
        if not is_admin(request):
            return None
        if not self.users.is_anybody():
            return refuse(
                HTTPStatus.FORBIDDEN,
                "the admin pages are closed: set BASIC_AUTH_USER and BASIC_AUTH_PASS and restart the backend, or set "
                "ADMIN_USERS_FILE and add people by `captioner user`",
            )
        acts = request.method not in READING
        if acts and not is_same_origin(request):
            return refuse(
                HTTPStatus.FORBIDDEN, "this action must come from the admin pages themselves, not from another site"
            )
        if request.endpoint != SIGNING_IN:
            user = current_user()
            if user is None:
                return _ask_to_sign_in()
            if acts and user.role != "operator" and request.endpoint != SIGNING_OUT:
                return refuse(HTTPStatus.FORBIDDEN, f"{user.name} is a viewer, and this takes an operator")
        if acts and (request.endpoint == SIGNING_IN or _is_from_browser(request)):
            self._tokens.protect()
        return None

    def _user_of_session(self, name: str) -> User | None:
        is_over = time.time() - session.get("signed_in_at", 0) > SESSION_S
        return None if is_over else self.users.find(name)

    def _user_of_basic_auth(self, asked: Request) -> User | None:
        name, login = sent_name(asked), asked.authorization
        if name is None or login is None:
            return None
        try:
            return self.check_password(name, login.password or "")
        except TooManyRequests as refusal:
            g.held_back = refusal  # whoever asks for the user, a template too, gets an answer
            return None


def access() -> Access:
    found: Access = current_app.extensions[EXTENSION]
    return found


def current_user() -> User | None:
    """Return who asks; None only where people sign in."""
    user = flask_login.current_user._get_current_object()
    return user if isinstance(user, User) else None


def write_down(action: str, project_id: int | None = None, **details: Any) -> None:
    """Write into the audit log what the current user did."""
    user = current_user()
    access().audit.write(user.name if user else "somebody unknown", action, project_id, **details)


def _ask_to_sign_in() -> ResponseReturnValue:
    if "held_back" in g:
        raise g.held_back
    if not is_person(request):
        return ask_for_login()
    wanted = request.full_path.rstrip("?") if request.method in READING else our_page(request.form.get("back"))
    return redirect(url_for(SIGNING_IN, next=wanted))


def _is_from_browser(asked: Request) -> bool:
    return SESSION_COOKIE in asked.cookies or any(header in asked.headers for header in _BROWSER_HEADERS)


def _without_token(problem: CSRFError) -> Response:
    return refuse(
        HTTPStatus.BAD_REQUEST,
        f"{problem.description} Open the page again and repeat the action; scripts send basic auth and no cookies",
    )


def _protect_page(response: Response) -> Response:
    """Let no page be kept where others may find it, nor run what it does not need."""
    if is_admin(request) and not (request.endpoint or "").endswith("static"):
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    return response
