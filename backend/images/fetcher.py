"""Images of tasks, fetched from their addresses in Label Studio (docs/label-studio.md lists the forms).

Whoever imports tasks chooses these addresses, so we do not trust them. Every fetch has a limit in time and bytes and
uses only http and https. The token is sent only to Label Studio's own origin, and only for its files.
`backend/images/addresses.py` says which addresses are refused. No message quotes what was fetched.
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, unquote_to_bytes, urljoin

import requests
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import parse_url

from backend.images.addresses import AddressPolicy, AllowedHosts
from backend.images.guarded_session import make_guarded_session
from backend.label_studio.client import LabelStudioClient
from backend.protocol.label_config import INSIDE_TASK
from model.errors import ImageError, ImageProblem, LabelStudioError
from worker.settings import Settings

CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
"""Addresses that only Label Studio can resolve, with the credentials of its storage."""

_FILES = re.compile(r"(data|storage-data)/|tasks/\d+/(resolve|presign)/?$")
"""Paths of Label Studio below its root that serve files."""
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of time and size for one image."""

    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    """Longest silence of the server."""
    total_timeout_s: float = 20.0
    """From the first connection to the last byte, redirects included."""
    max_image_bytes: int = 20_000_000
    max_redirects: int = 3


class ImageFetcher:
    """Fetches image bytes; keeps connections open; safe to share between threads."""

    def __init__(
        self,
        *,
        label_studio_url: str,
        authorization: Callable[[], Mapping[str, str]],
        allowed: AllowedHosts | None = None,
        limits: FetchLimits | None = None,
    ) -> None:
        """Set up a fetcher for one Label Studio.

        Args:
            label_studio_url: its address for this process, with its sub-path if it has one.
            authorization: returns the headers for requests to Label Studio; may raise LabelStudioError.
            allowed: hosts that the operator lists; None for the defaults.
            limits: the defaults fit photos.
        """
        self.label_studio_url = label_studio_url.rstrip("/") + "/"
        self.authorization = authorization
        self.limits = limits or FetchLimits()
        _, host, port = _origin(self.label_studio_url)
        self._policy = AddressPolicy(label_studio=(host.strip("[]"), port), allowed=allowed)
        self._session = make_guarded_session(self._policy)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return a fetcher for the configured Label Studio; without LABEL_STUDIO_API_KEY it sends no token."""
        client = LabelStudioClient.from_settings(settings)
        return cls(
            label_studio_url=settings.label_studio_url,
            authorization=dict if client is None else client.authorization,
            allowed=AllowedHosts.parse(settings.allowed_image_hosts) if settings.allowed_image_hosts else None,
        )

    def fetch(self, image_ref: str, task_id: int) -> bytes:
        """Return the bytes of a task's image.

        Args:
            image_ref: the value in the task's data.
            task_id: id of the task, because Label Studio resolves cloud addresses per task.

        Raises:
            ImageError: the image cannot be fetched; the message has no tokens or signatures.
        """
        if image_ref.startswith("data:"):
            return self._decode_data_url(image_ref)
        try:
            return self._download(self._address(image_ref, task_id))
        except LabelStudioError as cause:
            raise ImageError(f"{shown(image_ref)} cannot be fetched: {cause}", "unreachable") from cause
        except (requests.RequestException, HTTPError, OSError, ValueError) as cause:
            message, problem = _network_problem(cause)
            raise ImageError(f"{shown(image_ref)} cannot be fetched: {message}", problem) from cause

    def _address(self, image_ref: str, task_id: int) -> str:
        """Return the URL of an image address of any kind."""
        scheme, colon, _ = image_ref.partition(":")
        scheme = scheme.lower()
        if colon and scheme in {"http", "https"}:
            return image_ref
        if colon and scheme in CLOUD_SCHEMES:
            file_uri = base64.urlsafe_b64encode(image_ref.encode()).decode()
            return urljoin(self.label_studio_url, f"tasks/{task_id}/resolve/?fileuri={file_uri}")
        if image_ref.startswith("/"):
            # Label Studio writes its sub-path into the value, so the two must not be concatenated.
            return urljoin(self.label_studio_url, image_ref)
        raise ImageError(
            f"{shown(image_ref)} is no image address: expected a path of Label Studio, http(s), "
            f"{', '.join(CLOUD_SCHEMES)} or data:",
            "address",
        )

    def _download(self, url: str) -> bytes:
        deadline = time.monotonic() + self.limits.total_timeout_s
        for _ in range(self.limits.max_redirects + 1):
            with self._ask(url) as response:
                if response.status_code not in _REDIRECTS:
                    return self._read(response, deadline)
                url = _redirect_target(response)
        raise ImageError(f"{shown(url)} redirects more than {self.limits.max_redirects} times", "address")

    def _ask(self, url: str) -> requests.Response:
        return self._session.get(
            url,
            headers=dict(self.authorization()) if self._is_our_file(url) else {},
            auth=_no_netrc,
            timeout=(self.limits.connect_timeout_s, self.limits.read_timeout_s),
            stream=True,
            allow_redirects=False,
        )

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        where = shown(response.url)
        if response.status_code != 200:
            raise ImageError(f"{where} answered {response.status_code}{self._advice(response)}", _refusal(response))
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":  # a few bytes could be unpacked to gigabytes
            raise ImageError(f"{where} is packed as {encoding} although identity was asked for", "large")
        content = bytearray()
        # read1 returns the bytes that have arrived; read would wait for a full chunk and so pass the deadline.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            content += chunk
            if len(content) > self.limits.max_image_bytes:
                raise ImageError(f"{where} is larger than {self.limits.max_image_bytes:,} bytes", "large")
            if time.monotonic() > deadline:
                raise ImageError(f"{where} took longer than {self.limits.total_timeout_s:g} s", "slow")
        return bytes(content)

    def _advice(self, response: requests.Response) -> str:
        if not self._is_label_studio(response.url):
            return ""
        if response.status_code in {401, 403}:
            return ": Label Studio refuses LABEL_STUDIO_API_KEY, `captioner doctor` says more"
        if response.status_code in {404, 500}:
            return ": Label Studio has no such file, or no storage that covers it"
        return ""

    def _is_label_studio(self, url: str) -> bool:
        return _origin(url) == _origin(self.label_studio_url)

    def _is_our_file(self, url: str) -> bool:
        """Say whether an address is a file that Label Studio serves. The key opens much more; no task may name that."""
        if not self._is_label_studio(url):
            return False
        path, root = unquote(parse_url(url).path or "/"), unquote(parse_url(self.label_studio_url).path or "/")
        return ".." not in path and path.startswith(root) and _FILES.match(path.removeprefix(root)) is not None

    def _decode_data_url(self, image_ref: str) -> bytes:
        if image_ref.startswith(INSIDE_TASK):
            raise ImageError("the image is inside its task in Label Studio, only its hash is stored here", "absent")
        header, comma, payload = image_ref.partition(",")
        if not comma:
            raise ImageError(f"{shown(image_ref)} is no data URL: it has no comma", "address")
        if len(payload) * 3 // 4 > self.limits.max_image_bytes:
            raise ImageError(f"{shown(image_ref)} is larger than {self.limits.max_image_bytes:,} bytes", "large")
        raw = unquote_to_bytes(payload)
        if not header.endswith(";base64"):
            return raw
        try:
            return base64.b64decode(raw)
        except binascii.Error as cause:
            raise ImageError(f"{shown(image_ref)} is not valid base64: {cause}", "address") from cause


def shown(image_ref: str) -> str:
    """Return an image address for logs and replies: short, and without passwords and signatures."""
    if image_ref.startswith("data:"):
        return image_ref.partition(",")[0][:60] + ",..."
    if re.match(r"https?:", image_ref, re.IGNORECASE):
        image_ref = re.sub(r"//[^/@]*@", "//", image_ref.partition("?")[0])
    return image_ref if len(image_ref) <= 200 else image_ref[:200] + "..."


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port, from the same parser that the connection uses."""
    parsed = parse_url(url)
    scheme = (parsed.scheme or "").lower()
    return scheme, (parsed.host or "").lower(), parsed.port or (443 if scheme == "https" else 80)


def _redirect_target(response: requests.Response) -> str:
    target = urljoin(response.url, response.headers.get("Location", ""))
    if _origin(target)[0] not in {"http", "https"}:
        raise ImageError(
            f"{shown(response.url)} redirects to {shown(target)}, only http and https are followed", "address"
        )
    return target


def _network_problem(cause: Exception) -> tuple[str, ImageProblem]:
    """Return a message and a reason for a failure of the network; the libraries' messages repeat the whole URL."""
    if isinstance(cause, requests.exceptions.SSLError):
        message = "its certificate is not accepted; REQUESTS_CA_BUNDLE can name a file of further authorities"
        return message, "unreachable"
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return "its host does not answer", "unreachable"
    if isinstance(cause, requests.exceptions.ReadTimeout) or "timed out" in str(cause):
        return "its host stopped sending", "slow"
    if isinstance(cause, ProtocolError):
        return "its host closed the connection", "unreachable"
    if isinstance(cause, requests.exceptions.ConnectionError):
        return "its host cannot be reached", "unreachable"
    if isinstance(cause, ValueError):
        return "the address is not valid", "address"
    return type(cause).__name__, "unreachable"


def _refusal(response: requests.Response) -> ImageProblem:
    """Return the reason for a status that is not 200; Label Studio answers 500 for a file that it does not have."""
    if response.status_code in {401, 403}:
        return "refused"
    return "missing" if response.status_code in {404, 410, 500} else "unreachable"


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep the library from replacing our headers by a login from the .netrc file of this machine."""
    return request
