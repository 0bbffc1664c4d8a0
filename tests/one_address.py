"""One address for several servers: a forwarder of TCP connections, as a load balancer is."""

import itertools
import socket
import socketserver
import threading
from collections.abc import Sequence
from contextlib import suppress

from tests.served import Served


class OneAddress(Served):
    """Gives each connection to the next server that accepts it. Use it as a context manager."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = itertools.count()
        super().__init__(_Server(("127.0.0.1", 0), self._make_handler()))

    def _connect(self) -> socket.socket | None:
        """Return a connection to the next server; None if no server accepts one."""
        for _ in self._ports:
            port = self._ports[next(self._turn) % len(self._ports)]
            with suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), timeout=5)
        return None

    def _make_handler(self) -> type[socketserver.BaseRequestHandler]:
        connect = self._connect

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                server = connect()
                if server is None:
                    return
                with server:
                    server.settimeout(None)
                    back = threading.Thread(target=_forward, args=(server, client), daemon=True)
                    back.start()
                    _forward(client, server)
                    back.join()

        return Handler


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


def _forward(source: socket.socket, target: socket.socket) -> None:
    """Send on what arrives until the source ends or either side is gone."""
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
