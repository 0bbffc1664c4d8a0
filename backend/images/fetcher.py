"""Images of tasks, fetched from their addresses in Label Studio (docs/label-studio.md lists the forms).

Whoever imports tasks chooses these addresses, so we do not trust them. Every fetch has a limit in time and bytes and
uses only http and https. The token is sent only to Label Studio's own origin, and only for its files
(`label_studio_files.py`).
`backend/images/addresses.py` says which addresses are refused. No message quotes what was fetched.
"""

import base64
import binascii
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote_to_bytes, urljoin

import requests
from urllib3.exceptions import HTTPError, ProtocolError

from backend.images.addresses import AddressPolicy, AllowedHosts
from backend.images.guarded_session import make_guarded_session
from backend.images.label_studio_files import LabelStudioFiles, origin
from backend.images.refusals import Refusal, about_addresses, shown
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.public_address import PublicAddress
from backend.protocol.label_config import INSIDE_TASK
from model.errors import ImageError, ImageProblem, LabelStudioError
from worker.settings import Settings

CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
"""Addresses that only Label Studio can resolve, with the credentials of its storage."""

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65_536
_UNPACKED = ("gzip", "x-gzip", "deflate")
"""Codings that we unpack, although we ask for none: some storages keep their files packed."""
_PACKED = (*_UNPACKED, "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "bzip2", "lzma", "xz")
"""Codings that change the bytes. Servers also send other words that mean nothing, such as `utf-8` or `aws-chunked`."""
_MAY_BE_ANOTHER_ADDRESS = ("refused", "missing", "unreachable", "address")
"""Reasons that a file of Label Studio has if we do not know that its address is one of Label Studio."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of time and size for one image."""

    connect_timeout_s: float = 3.0
    read_timeout_s: float = 12.0
    """Longest silence of the server, before its first byte too: some storages fetch a file from a tape or a disk that
    sleeps."""
    total_timeout_s: float = 30.0
    """From the first connection to the last byte, redirects included."""
    max_image_bytes: int = 20_000_000
    max_redirects: int = 3


@dataclass(frozen=True)
class _Hop:
    """One address on the way to an image."""

    url: str
    is_file: bool
    """It is a file of Label Studio at LABEL_STUDIO_URL, which gets our key."""
    is_signed: bool = False
    """Label Studio sent us here, to the storage that has the file."""


class ImageFetcher:
    """Fetches image bytes; keeps connections open; safe to share between threads."""

    def __init__(
        self,
        *,
        label_studio_url: str,
        authorization: Callable[[], Mapping[str, str]],
        forget_access: Callable[[str | None], bool] | None = None,
        public_address: Callable[[], str | None] = lambda: None,
        allowed: AllowedHosts | None = None,
        limits: FetchLimits | None = None,
    ) -> None:
        """Set up a fetcher for one Label Studio.

        Args:
            label_studio_url: its address for this process, with its sub-path if it has one.
            authorization: returns the headers for requests to Label Studio; may raise LabelStudioError.
            forget_access: takes the header that Label Studio refused; returns True if `authorization` now returns
                another one.
            public_address: returns the address of Label Studio for browsers, or None.
            allowed: hosts that the operator lists; None for the defaults.
            limits: the defaults fit photos.
        """
        self.files = LabelStudioFiles(label_studio_url, public_address)
        self.authorization = authorization
        self._forget_access = forget_access or (lambda _: False)
        self.limits = limits or FetchLimits()
        _, host, port = origin(self.files.url)
        self._policy = AddressPolicy(label_studio=(host.strip("[]"), port), allowed=allowed)
        self._session = make_guarded_session(self._policy)

    @classmethod
    def from_settings(cls, settings: Settings, public_address: PublicAddress) -> Self:
        """Return a fetcher for the configured Label Studio; without LABEL_STUDIO_API_KEY it sends no token."""
        client = LabelStudioClient.from_settings(settings)
        return cls(
            label_studio_url=settings.label_studio_url,
            authorization=dict if client is None else client.authorization,
            forget_access=None if client is None else client.forget_access,
            public_address=public_address.read,
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
        if image_ref[:5].lower() == "data:":
            return self._decode_data_url(image_ref)
        try:
            hop = self._first_hop(image_ref, task_id)
        except ValueError as cause:
            raise ImageError(f"{shown(image_ref)} cannot be fetched: the address is not valid", "address") from cause
        try:
            return self._download(image_ref, hop)
        except LabelStudioError as cause:
            raise ImageError(f"{shown(image_ref)} cannot be fetched: {cause}", "unreachable") from cause
        except ImageError as problem:
            if hop.is_file or problem.reason not in _MAY_BE_ANOTHER_ADDRESS:
                raise
            advice = about_addresses(image_ref, self.files.public_address())
            raise ImageError(f"{problem}{advice}", problem.reason) from problem

    def _first_hop(self, image_ref: str, task_id: int) -> "_Hop":
        """Return where to begin, for an image address of any kind."""
        scheme, colon, _ = image_ref.partition(":")
        scheme = scheme.lower()
        if colon and scheme in CLOUD_SCHEMES:
            file_uri = base64.urlsafe_b64encode(image_ref.encode()).decode()
            return _Hop(urljoin(self.files.url, f"tasks/{task_id}/resolve/?fileuri={file_uri}"), is_file=True)
        if image_ref.startswith("/") or (colon and scheme in {"http", "https"}):
            return self._hop(image_ref)
        raise ImageError(
            f"{shown(image_ref)} is no image address: expected a path of Label Studio, http(s), "
            f"{', '.join(CLOUD_SCHEMES)} or data:",
            "address",
        )

    def _hop(self, address: str) -> "_Hop":
        file = self.files.find(address)
        return _Hop(file or self.files.complete(address), is_file=file is not None)

    def _download(self, image_ref: str, hop: "_Hop") -> bytes:
        deadline = time.monotonic() + self.limits.total_timeout_s
        for _ in range(self.limits.max_redirects + 1):
            try:
                answer = self._visit(image_ref, hop, deadline)
            except (requests.RequestException, HTTPError, OSError, ValueError) as cause:
                message, reason = _network_problem(cause)
                whose = "" if reason == "address" else self._whose(hop)
                raise ImageError(f"{shown(image_ref)} cannot be fetched: {message}{whose}", reason) from cause
            if isinstance(answer, bytes):
                return answer
            if hop.is_file and answer.url == hop.url:
                raise ImageError(
                    f"{shown(image_ref)} cannot be fetched: LABEL_STUDIO_URL redirects to the public address of Label "
                    "Studio; set LABEL_STUDIO_URL to an address that does not",
                    "address",
                )
            hop = answer
        raise ImageError(f"{shown(image_ref)} redirects more than {self.limits.max_redirects} times", "address")

    def _whose(self, hop: "_Hop") -> str:
        if hop.is_file:
            return f" (Label Studio at LABEL_STUDIO_URL, {shown(self.files.url)})"
        return f" ({origin(hop.url)[1]}, which stores the file for Label Studio)" if hop.is_signed else ""

    def _visit(self, image_ref: str, hop: "_Hop", deadline: float) -> "bytes | _Hop":
        """Return the image, or the next address on the way to it."""
        with self._ask(hop, deadline) as response:
            if response.status_code == 200:
                return self._read(image_ref, response, deadline)
            if response.status_code not in _REDIRECTS:
                raise self._refusal(image_ref, response, hop)
            after = self._hop(_redirect_target(image_ref, response))
            is_signed = (hop.is_file or hop.is_signed) and not self.files.serves(after.url)
            return replace(after, is_signed=is_signed)

    def _ask(self, hop: "_Hop", deadline: float) -> requests.Response:
        """Ask once, and once more with a new access token if Label Studio refuses the old one."""
        headers = dict(self.authorization()) if hop.is_file else {}
        response = self._send(hop.url, headers, deadline)
        if response.status_code == 401 and hop.is_file and self._forget_access(headers.get("Authorization")):
            response.close()
            response = self._send(hop.url, dict(self.authorization()), deadline)
        return response

    def _send(self, url: str, headers: Mapping[str, str], deadline: float) -> requests.Response:
        left_s = max(deadline - time.monotonic(), 0.01)
        return self._session.get(
            url,
            headers=dict(headers),
            auth=_no_netrc,
            timeout=(min(self.limits.connect_timeout_s, left_s), min(self.limits.read_timeout_s, left_s)),
            stream=True,
            allow_redirects=False,
        )

    def _read(self, image_ref: str, response: requests.Response, deadline: float) -> bytes:
        where = shown(image_ref)
        named = response.headers.get("Content-Encoding", "").lower().split(",")
        codings = [coding for coding in map(str.strip, named) if coding in _PACKED]
        if len(codings) > 1 or not all(coding in _UNPACKED for coding in codings):
            encoding = ", ".join(codings)
            raise ImageError(f"{where} is packed as {encoding} although identity was asked for", "large")
        content = bytearray()
        # read1 returns the bytes that have arrived; read would wait for a full chunk and so pass the deadline.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            content += chunk
            if len(content) > self.limits.max_image_bytes:
                raise ImageError(f"{where} is larger than {self.limits.max_image_bytes:,} bytes", "large")
            if time.monotonic() > deadline:
                raise ImageError(f"{where} took longer than {self.limits.total_timeout_s:g} s", "slow")
        return self._unpack(where, bytes(content), codings[0]) if codings else bytes(content)

    def _unpack(self, where: str, packed: bytes, coding: str) -> bytes:
        """Return the bytes of a packed image. Of a few bytes that become gigabytes, only the first are unpacked."""
        most = self.limits.max_image_bytes
        # The first is for gzip and zlib. The second is for servers that send deflate without the header of zlib.
        for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
            try:
                content = zlib.decompressobj(window).decompress(packed, most + 1)
            except zlib.error:
                continue
            if len(content) > most:
                raise ImageError(f"{where} is larger than {most:,} bytes", "large")
            return content
        raise ImageError(f"{where} is packed as {coding}, and its bytes cannot be unpacked")

    def _refusal(self, image_ref: str, response: requests.Response, hop: "_Hop") -> ImageError:
        refusal = Refusal(
            image_ref=image_ref,
            status=response.status_code,
            detail=_beginning(response),
            is_file=hop.is_file,
            at_label_studio=self.files.serves(hop.url),
            is_signed=hop.is_signed,
            has_key="Authorization" in response.request.headers,
        )
        return ImageError(refusal.sentence, refusal.reason)

    def _decode_data_url(self, image_ref: str) -> bytes:
        if image_ref.startswith(INSIDE_TASK):
            raise ImageError("the image is inside its task in Label Studio, only its hash is stored here", "absent")
        header, comma, payload = image_ref.partition(",")
        if not comma:
            raise ImageError(f"{shown(image_ref)} is no data URL: it has no comma", "address")
        if len(payload) * 3 // 4 > self.limits.max_image_bytes:
            raise ImageError(f"{shown(image_ref)} is larger than {self.limits.max_image_bytes:,} bytes", "large")
        raw = unquote_to_bytes(payload)
        if "base64" not in (parameter.strip().lower() for parameter in header.split(";")[1:]):
            return raw
        try:
            return base64.b64decode(raw + b"==")  # Python needs the padding that others leave out, and may have more
        except binascii.Error as cause:
            raise ImageError(f"{shown(image_ref)} is not valid base64: {cause}", "address") from cause


def _redirect_target(image_ref: str, response: requests.Response) -> str:
    target = urljoin(response.url, response.headers.get("Location", ""))
    if origin(target)[0] not in {"http", "https"}:
        raise ImageError(
            f"{shown(image_ref)} redirects to {shown(target)}, only http and https are followed", "address"
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


def _beginning(response: requests.Response) -> str:
    """Return the first bytes of an answer, for a few known words in it."""
    try:
        return bytes(response.raw.read1(_CHUNK_BYTES, decode_content=False)).decode("utf-8", "replace")
    except (HTTPError, OSError, ValueError):
        return ""


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep the library from replacing our headers by a login from the .netrc file of this machine."""
    return request
