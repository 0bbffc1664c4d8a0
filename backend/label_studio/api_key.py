"""`LABEL_STUDIO_API_KEY` as Label Studio wants it in a request: a legacy token, or a personal access token.

A legacy token (40 hex digits) is sent as it is. A personal access token is a JWT *refresh* token: Label Studio takes
only the access token it gives for it, and that one lives 300 s (observed on 1.23.2).
"""

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from model.errors import SettingsError

KeyKind = Literal["legacy token", "personal access token"]

ACCESS_LIFETIME_S = 300.0
"""What Label Studio gives when the access token itself does not say."""
RENEWED_AFTER = 0.7
"""Share of its lifetime after which an access token is renewed: a request under way must not outlive it."""


class ApiKey:
    """One API key and the header it makes. Safe to share between threads."""

    def __init__(self, api_key: str, exchange: Callable[[str], str]) -> None:
        """Take the key; `exchange` asks Label Studio for the access token of a personal access token.

        Raises:
            SettingsError: the key is a token of another kind.
        """
        self._api_key = api_key.strip()
        self._exchange = exchange
        self._access = ""
        self._renew_at = 0.0
        self._lock = threading.Lock()
        self.kind = _kind(self._api_key)

    def authorization(self) -> dict[str, str]:
        """Return the `Authorization` header; may ask Label Studio for a new access token first.

        Raises:
            LabelStudioError: Label Studio does not exchange the personal access token.
        """
        if self.kind == "legacy token":
            return {"Authorization": f"Token {self._api_key}"}
        with self._lock:
            if time.monotonic() >= self._renew_at:
                asked_at = time.monotonic()
                self._access = self._exchange(self._api_key)
                self._renew_at = asked_at + RENEWED_AFTER * _lifetime_s(self._access)
            return {"Authorization": f"Bearer {self._access}"}

    def forget_access(self) -> bool:
        """Drop the access token, because Label Studio refused it; return whether a new one can be had."""
        with self._lock:
            self._renew_at = 0.0
        return self.kind == "personal access token"


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
    """Return the claims of a JWT, unverified, or None when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None
