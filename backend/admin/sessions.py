"""Sessions in a browser: a signed cookie, for /admin only."""

from datetime import timedelta

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from backend.access.login import ADMIN_PATH, is_below
from backend.admin.users import Users

SESSION_S = 12 * 3600
SESSION_COOKIE = "captioner_session"


def keep_sessions(app: Flask, users: Users) -> None:
    app.config.update(
        SESSION_COOKIE_NAME=SESSION_COOKIE,
        SESSION_COOKIE_PATH=ADMIN_PATH,
        SESSION_COOKIE_HTTPONLY=True,
        # Links from other sites may open the pages; actions also need a token.
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=SESSION_S),
    )
    app.session_interface = _AdminSessions(users)


def is_https() -> bool:
    """Return True if the browser uses https, perhaps through a proxy."""
    return "https" in {request.scheme, request.headers.get("X-Forwarded-Proto")}


class _AdminSessions(SecureCookieSessionInterface):
    """Flask's sessions, with a secret that changes with the users."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if not is_below(request.path, (ADMIN_PATH,)):
            return None
        app.secret_key = self._users.session_secret()
        return super().open_session(app, request)

    def get_cookie_secure(self, app: Flask) -> bool:
        return is_https()
