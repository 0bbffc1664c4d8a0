"""Sessions in a browser: a signed cookie, for /admin only.

captioner:signed-out   hash   user name -> Unix time at which the user signed out last
"""

import logging
import time
from contextlib import suppress
from datetime import timedelta

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from redis import Redis, RedisError

from backend.access.login import ADMIN_PATH, is_below
from backend.admin.users import Users

logger = logging.getLogger(__name__)

SIGNED_OUT_KEY = "captioner:signed-out"
SESSION_S = 12 * 3600
SESSION_COOKIE = "captioner_session"


def keep_sessions(app: Flask, users: Users) -> None:
    app.config.update(
        SESSION_COOKIE_NAME=SESSION_COOKIE,
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


class SignedOut:
    """When people signed out: sessions that began before are over, in every browser that has a copy of the cookie."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._known: dict[str, float] = {}

    def note(self, name: str) -> None:
        """End all sessions of a person."""
        now = time.time()
        self._known[name] = now
        try:
            self._redis.hset(SIGNED_OUT_KEY, name, str(now))
        except RedisError as problem:
            logger.warning("other backends do not know that somebody signed out problem=%s", problem)

    def is_over(self, name: str, signed_in_at: float) -> bool:
        """Say whether a session ended by signing out. While Redis does not answer, this process knows only its own."""
        with suppress(RedisError):
            moment = self._redis.hget(SIGNED_OUT_KEY, name)
            if moment is not None:
                self._known[name] = max(float(moment), self._known.get(name, 0.0))
        return signed_in_at <= self._known.get(name, 0.0)


class _AdminSessions(SecureCookieSessionInterface):
    """Flask's sessions, with a secret that changes with the users."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if not is_below(request.path, (ADMIN_PATH,)):
            return None
        app.secret_key = self._users.session_secret()
        return super().open_session(app, request)

    def get_cookie_path(self, app: Flask) -> str:
        return request.script_root + ADMIN_PATH

    def get_cookie_secure(self, app: Flask) -> bool:
        return is_https()
