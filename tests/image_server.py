"""A web server on a free port that serves images and can misbehave like real servers."""

import io
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from tests.served import Served


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request that arrived."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    connection: int
    """Port of the client: the same for all requests on one connection."""


class QuietServer(ThreadingHTTPServer):
    """A server that does not print the errors of broken connections."""

    def handle_error(self, *_: object) -> None:
        """Say nothing: our callers hang up on purpose."""


class ImageServer(Served):
    """Answers from `pages`: with bytes, or by a function that writes the reply itself."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[ReceivedRequest] = []
        self.stopping = threading.Event()
        server = QuietServer((host, 0), self._make_handler())
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        super().__init__(server, "https" if tls else "http")

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        super().__exit__(*exception)

    def show(self, path: str, color: str = "red") -> str:
        """Serve an image of one color at this path; return its address."""
        self.pages[path] = png(color)
        return self.url + path

    def redirect(self, path: str, target: str) -> str:
        """Redirect this path to another address; return the address of the path."""

        def reply(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(303)
            handler.send_header("Location", target)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        self.pages[path] = reply
        return self.url + path

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two writes; with Nagle's algorithm the second one waits 40 ms.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append(
                    ReceivedRequest(path=self.path, headers=headers, connection=self.client_address[1])
                )
                page = server.pages.get(self.path)
                if callable(page):
                    page(self)
                elif page is None:
                    send(self, 404, b"no such page")
                else:
                    send(self, 200, page)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def png(color: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()
