"""A server of a test, which answers in a thread of its own."""

import threading
from socketserver import TCPServer
from typing import Self


class Served:
    """Answers as long as its `with` block lasts."""

    def __init__(self, server: TCPServer, scheme: str = "http") -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        host, port = server.server_address[:2]
        self.url = f"{scheme}://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
