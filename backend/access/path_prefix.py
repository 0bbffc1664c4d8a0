"""The path under which a proxy publishes us, such as /captioner: every link, redirect and cookie then begins with it.

The proxy names the path in X-Forwarded-Prefix, or in X-Script-Name. It may remove the path from requests or leave it.
Anybody else can send these headers too. That changes only the answer to their own request. No page of another site can
make a browser send them (CORS). Caches may not store our pages. A header can hold nothing but a plain path. So it can
name no other host and put no text into a page. `ProxyFix` of Werkzeug would take any text. It would also leave the path
in requests.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from backend.access.login import ADMIN_PATH, is_below

HEADERS = ("HTTP_X_FORWARDED_PREFIX", "HTTP_X_SCRIPT_NAME")
LONGEST_PREFIX = 200
"""Characters."""

_PREFIX = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class PathPrefix:
    """Lets an application see the path of its proxy as its root."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        prefix = read_prefix(environ)
        if prefix:
            environ["SCRIPT_NAME"] = prefix
            path = environ.get("PATH_INFO", "")
            # Below /admin the path is ours, so a proxy that publishes us there has to remove it.
            if is_below(path, (prefix,)) and not is_below(prefix, (ADMIN_PATH,)):
                environ["PATH_INFO"] = path.removeprefix(prefix)
        return self._app(environ, start_response)


def read_prefix(environ: Environ) -> str:
    """Return the prefix that the nearest proxy names, without a slash at its end; empty if it names none."""
    prefixes = (environ.get(header, "").rpartition(",")[2].strip().rstrip("/") for header in HEADERS)
    return next((prefix for prefix in prefixes if len(prefix) <= LONGEST_PREFIX and _PREFIX.fullmatch(prefix)), "")
