"""`LABEL_STUDIO_API_KEY` in the form that Label Studio expects: a legacy token, or a personal access token.

A legacy token (40 hex digits) is sent as it is. A personal access token is a JWT refresh token: Label Studio gives an
access token for it, accepts only that one, and only for 300 s (observed on 1.23.2). The claims of these tokens are read
by hand, because PyJWT would take 9 MB of each process.
"""

import base64
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import requests

from model.errors import SettingsError

KeyKind = Literal["legacy token", "personal access token"]

ACCESS_LIFETIME_S = 300.0
"""Assumed lifetime of an access token that does not state its end."""
RENEWED_AFTER = 0.7
"""Share of its lifetime after which an access token is renewed. A request under way must not outlive it."""


class ApiKey(requests.auth.AuthBase):
    """One API key, which authenticates requests. Safe to share between threads."""

    def __init__(
        self, api_key: str, exchange: Callable[[str], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the key; `exchange` asks Label Studio for the access token of a personal access token.

        Raises:
            SettingsError: the key is a token of another kind.
        """
        self._api_key = api_key.strip()
        self._exchange = exchange
        self._clock = clock
        self._access = ""
        self._renew_at = -math.inf
        self._lock = threading.Lock()
        self.kind = _kind(self._api_key)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add our header to a request."""
        request.headers.update(self.authorization())
        return request

    def authorization(self) -> dict[str, str]:
        """Return the `Authorization` header; may ask Label Studio for a new access token first.

        Raises:
            LabelStudioError: Label Studio does not exchange the personal access token.
        """
        if self.kind == "legacy token":
            return {"Authorization": f"Token {self._api_key}"}
        with self._lock:
            if self._clock() >= self._renew_at:
                began = self._clock()
                self._access = self._exchange(self._api_key)
                self._renew_at = began + RENEWED_AFTER * _lifetime_s(self._access)
            return {"Authorization": f"Bearer {self._access}"}

    def forget_access(self, refused: str | None) -> bool:
        """Drop the access token that Label Studio refused; return True if there can be a new one.

        Args:
            refused: the `Authorization` header of the refused request. Of several requests that are refused at once,
                only the first makes us ask for a new token.
        """
        if self.kind == "legacy token":
            return False
        with self._lock:
            if refused == f"Bearer {self._access}":
                self._renew_at = -math.inf
        return True


def _kind(api_key: str) -> KeyKind:
    claims = _claims(api_key)
    if claims is None:
        return "legacy token"
    if claims.get("token_type") == "access":
        raise SettingsError(
            "LABEL_STUDIO_API_KEY is an access token, which lives 5 minutes: use the personal access token "
            "(Account & Settings > Personal Access Token) or the legacy token"
        )
    return "personal access token"


def _lifetime_s(access: str) -> float:
    # A difference of the server's own times, so our clock may be wrong.
    claims = _claims(access) or {}
    try:
        return max(float(claims["exp"]) - float(claims["iat"]), 0.0)
    except (KeyError, TypeError, ValueError):
        return ACCESS_LIFETIME_S


def _claims(token: str) -> dict[str, Any] | None:
    """Return the claims of a JWT, unverified, or None for any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
