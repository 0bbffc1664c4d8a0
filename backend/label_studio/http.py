"""Requests to Label Studio's HTTP API: address, credentials, time limits, and explanations of refusals."""

from typing import Any, TypeVar
from urllib.parse import urljoin

import requests

from backend.label_studio.api_key import ApiKey
from backend.protocol.json_fields import JsonObject, parse_json
from model.errors import LabelStudioError, RequestError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0

T = TypeVar("T")


class LabelStudioRefusalError(LabelStudioError):
    """Label Studio answered with a status of refusal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioHttp:
    """One Label Studio and one API key. Safe to share between threads."""

    def __init__(self, url: str, api_key: str, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        # Label Studio may live below a path (http://host/label-studio); urljoin keeps it only before a slash.
        self.url = url.rstrip("/") + "/"
        self.api_key = ApiKey(api_key, self._exchange)
        self._session = requests.Session()
        self._timeout_s = (CONNECT_TIMEOUT_S, read_timeout_s)

    def ask(self, method: str, path: str, kind: type[T], **content: Any) -> T:
        """Send a request (`params`, `json`) and return the JSON of the reply as this type.

        Raises:
            LabelStudioError: Label Studio is down or too slow, redirects, or sends JSON of another type.
            LabelStudioRefusalError: any other status than success.
        """
        reply = self._send(method, path, self.api_key, **content)
        if reply.status_code == 401 and self.api_key.forget_access(reply.request.headers.get("Authorization")):
            # Access tokens end early when Label Studio's secret key changes.
            reply = self._send(method, path, self.api_key, **content)
        if reply.status_code == 401:
            raise LabelStudioRefusalError(self._unauthorized(reply), 401)
        return self._read(reply, kind)

    def _send(self, method: str, path: str, auth: ApiKey | None, **content: Any) -> requests.Response:
        # Prepared without the session: no cookie of Label Studio is sent back, no .netrc entry replaces our header.
        request = requests.Request(method, urljoin(self.url, path), auth=auth, **content).prepare()
        environment = self._session.merge_environment_settings(request.url, {}, None, None, None)
        try:
            # A redirect could lead to another host, which must not get our key.
            return self._session.send(request, timeout=self._timeout_s, allow_redirects=False, **environment)
        except requests.Timeout as cause:
            raise LabelStudioError(f"Label Studio at {self.url} did not answer in time: {cause}") from cause
        except requests.RequestException as cause:
            raise LabelStudioError(
                f"Label Studio cannot be reached at {self.url}: start it, or correct LABEL_STUDIO_URL ({cause})"
            ) from cause

    def _read(self, reply: requests.Response, kind: type[T]) -> T:
        if reply.is_redirect:
            raise LabelStudioError(
                f"Label Studio at {self.url} redirects to {reply.headers['Location']}: set LABEL_STUDIO_URL to "
                "the address it really has"
            )
        if not reply.ok:
            request = f"{reply.request.method} {reply.request.path_url.partition('?')[0]}"
            message = f"Label Studio answered {reply.status_code} to {request}: {_detail(reply)}"
            raise LabelStudioRefusalError(message, reply.status_code)
        try:
            return parse_json(kind, reply.json())
        except (ValueError, RequestError) as cause:
            raise LabelStudioError(
                f"{reply.url.partition('?')[0]} does not answer as Label Studio would ({cause}): LABEL_STUDIO_URL "
                "must be the address of Label Studio"
            ) from cause

    def _unauthorized(self, reply: requests.Response) -> str:
        way_out = "Allow personal access tokens"
        if self.api_key.kind == "legacy token":
            way_out = "Use a personal access token, or allow legacy tokens"
        return (
            f"Label Studio at {self.url} refused the {self.api_key.kind} in LABEL_STUDIO_API_KEY: {_detail(reply)}. "
            f"{way_out} in Organization > API Tokens Settings"
        )

    def _exchange(self, personal_access_token: str) -> str:
        """Return an access token for a personal access token."""
        body = {"refresh": personal_access_token}
        reply = self._send("POST", "api/token/refresh/", None, json=body)
        if reply.status_code == 401:
            raise LabelStudioRefusalError(
                f"Label Studio at {self.url} does not know the personal access token in LABEL_STUDIO_API_KEY "
                f"({_detail(reply)}): create a new one in Account & Settings > Personal Access Token",
                401,
            )
        return self._read(reply, _AccessToken).access


class _AccessToken(JsonObject):
    access: str


def _detail(reply: requests.Response) -> str:
    """Return Label Studio's reason for a refusal, in one short line."""
    try:
        body = reply.json()
    except ValueError:
        return reply.reason or "no reason given"
    if not isinstance(body, dict):
        return str(body)[:300]
    return str(body.get("validation_errors") or body.get("detail") or body)[:300]
