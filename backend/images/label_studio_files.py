"""Which addresses are files of Label Studio, and where we fetch them: always at LABEL_STUDIO_URL.

A task may name a file by its path. It may also name it by LABEL_STUDIO_URL, or by the address that Label Studio has for
browsers. Each form comes with or without the sub-path of that address. The API key is sent for these files and for
nothing else. It is sent only to the origin of LABEL_STUDIO_URL.
"""

import re
from collections.abc import Callable
from urllib.parse import unquote, urljoin

from urllib3.util import parse_url

_FILES = re.compile(r"(data|storage-data)/|tasks/\d+/(resolve|presign)/?$")
"""Paths of Label Studio below its root that serve files."""
_WAY_UP = re.compile(r"(^|[/\\])\s*\.\.\s*([/\\;?#\x00]|$)")
"""A segment `..` of a path. A server may cut a segment at `;`, `?`, `#` or a zero byte, and leave out spaces."""
_LIKE_A_FILE = re.compile(r"/(data/upload/\d+/|data/local-files/?$|tasks/\d+/(resolve|presign)/?$)")


class LabelStudioFiles:
    """The files of one Label Studio; safe to share between threads."""

    def __init__(self, url: str, public_address: Callable[[], str | None]) -> None:
        """Take the address for this process, and a function that returns the one for browsers, or None."""
        self.url = url.rstrip("/") + "/"
        self.public_address = public_address

    def find(self, image_ref: str) -> str | None:
        """Return where to fetch a file of Label Studio; None if the address is no such file.

        Args:
            image_ref: a path that begins with a slash, or an http or https address.
        """
        url, is_path = self.complete(image_ref), re.match(r"/(?!/)", image_ref) is not None
        public = self.public_address()
        addresses = {self.url, public or self.url}
        if origin(url) not in {origin(address) for address in addresses}:
            return None
        # Another program may be at the same host beside a sub-path, but a path alone is one of Label Studio.
        roots = {parse_url(address).path or "/" for address in addresses} | ({"/"} if is_path else set())
        parsed = parse_url(url)
        for root in sorted(roots, key=len, reverse=True):
            path = (parsed.path or "/").removeprefix(root)
            if (parsed.path or "/").startswith(root) and _is_file(path):
                return self.url + path + ("" if parsed.query is None else f"?{parsed.query}")
        return None

    def complete(self, image_ref: str) -> str:
        """Return the whole address of a path; any other address as it is."""
        return urljoin(self.url, image_ref) if image_ref.startswith("/") else image_ref

    def serves(self, url: str) -> bool:
        """Return True for an address at the origin of LABEL_STUDIO_URL."""
        return origin(url) == origin(self.url)


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port, from the same parser that the connection uses."""
    parsed = parse_url(url)
    scheme = (parsed.scheme or "").lower()
    return scheme, (parsed.host or "").lower(), parsed.port or (443 if scheme == "https" else 80)


def root_of_file(url: str) -> str | None:
    """Return what stands before a path that looks like a file of some Label Studio; None for any other address."""
    try:
        parsed = parse_url(url)
    except ValueError:
        return None
    found = _LIKE_A_FILE.search(unquote(parsed.path or ""))
    if found is None or parsed.scheme not in {None, "http", "https"}:
        return None
    root = unquote(parsed.path or "")[: found.start()]
    return f"{parsed.scheme}://{parsed.netloc.rpartition('@')[2]}{root}" if parsed.host and parsed.netloc else root


def _is_file(path: str) -> bool:
    """Say whether a path below Label Studio's root is a file. The key opens much more; no task may name that."""
    path = unquote(path)
    # A proxy in front of Label Studio may decode the path once more.
    return not any(_WAY_UP.search(way) for way in (path, unquote(path))) and _FILES.match(path) is not None
