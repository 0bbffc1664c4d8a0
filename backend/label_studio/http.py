"""Requests to Label Studio's HTTP API: address, credentials, time limits, and what a refusal means to a person."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests

from backend.label_studio.api_key import ApiKey
from model.errors import LabelStudioError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0

Read = TypeVar("Read")


class LabelStudioRefusalError(LabelStudioError):
    """Label Studio answered, with a status that says no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioHttp:
    """One Label Studio and one API key. Safe to share between threads."""

    def __init__(self, url: str, api_key: str) -> None:
        # Label Studio may live below a path (http://host/label-studio); urljoin keeps it only before a slash.
        self.url = url.rstrip("/") + "/"
        self._session = requests.Session()
        self._api_key = ApiKey(api_key, self._exchange)
        self.key_kind = self._api_key.kind

    def authorization(self) -> dict[str, str]:
        """Return the header that authenticates us.

        Raises:
            LabelStudioError: Label Studio does not exchange the personal access token.
        """
        return self._api_key.authorization()

    def ask(self, method: str, path: str, read: Callable[[Any], Read], **content: Any) -> Read:
        """Send a request (`params`, `json`) and return what `read` makes of the JSON in the reply.

        Raises:
            LabelStudioError: nothing there, too slow, redirected, or a reply that `read` cannot read.
            LabelStudioRefusalError: any status that is no success.
        """
        reply = self._send(method, path, self.authorization(), **content)
        if reply.status_code == 401 and self._api_key.forget_access():
            # Access tokens die early when Label Studio's secret key changes.
            reply = self._send(method, path, self.authorization(), **content)
        return self._read(reply, read)

    def _send(self, method: str, path: str, headers: Mapping[str, str], **content: Any) -> requests.Response:
        request = requests.Request(method, urljoin(self.url, path), headers=dict(headers), **content)
        # Prepared here and not by the session, which would replace our header by a .netrc entry.
        prepared = request.prepare()
        environment = self._session.merge_environment_settings(prepared.url, {}, None, None, None)
        timeout_s = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        try:
            return self._session.send(prepared, timeout=timeout_s, allow_redirects=False, **environment)
        except requests.Timeout as cause:
            raise LabelStudioError(f"Label Studio at {self.url} did not answer in time: {cause}") from cause
        except requests.RequestException as cause:
            raise LabelStudioError(
                f"Label Studio cannot be reached at {self.url}: start it, or correct LABEL_STUDIO_URL ({cause})"
            ) from cause

    def _read(self, reply: requests.Response, read: Callable[[Any], Read]) -> Read:
        if reply.is_redirect:
            raise LabelStudioError(
                f"Label Studio at {self.url} redirects to {reply.headers['Location']}: set LABEL_STUDIO_URL to "
                "the address it really has"
            )
        if reply.status_code == 401:
            raise LabelStudioRefusalError(self._unauthorized(reply), 401)
        if not reply.ok:
            asked = f"{reply.request.method} {reply.request.path_url.partition('?')[0]}"
            raise LabelStudioRefusalError(
                f"Label Studio answered {reply.status_code} to {asked}: {_detail(reply)}", reply.status_code
            )
        try:
            return read(reply.json())
        except (ValueError, TypeError, KeyError) as cause:
            raise LabelStudioError(
                f"{reply.url.partition('?')[0]} does not answer as Label Studio would ({cause!r}): LABEL_STUDIO_URL "
                "must be the address of Label Studio"
            ) from cause

    def _unauthorized(self, reply: requests.Response) -> str:
        said = f"Label Studio at {self.url} refused the {self.key_kind} in LABEL_STUDIO_API_KEY: {_detail(reply)}"
        if self.key_kind == "legacy token":
            return f"{said}. Use a personal access token, or allow legacy tokens in Organization > API Tokens Settings"
        return f"{said}. Allow personal access tokens in Organization > API Tokens Settings"

    def _exchange(self, personal_access_token: str) -> str:
        reply = self._send("POST", "api/token/refresh/", {}, json={"refresh": personal_access_token})
        if reply.status_code == 401:
            raise LabelStudioRefusalError(
                f"Label Studio at {self.url} does not know the personal access token in LABEL_STUDIO_API_KEY "
                f"({_detail(reply)}): create a new one in Account & Settings > Personal Access Token",
                401,
            )
        return self._read(reply, lambda body: str(body["access"]))


def _detail(reply: requests.Response) -> str:
    """Return what Label Studio says about a refusal, in one short line."""
    try:
        body = reply.json()
    except ValueError:
        return reply.reason or "no reason given"
    if not isinstance(body, dict):
        return str(body)[:300]
    return str(body.get("validation_errors") or body.get("detail") or body)[:300]
