"""Limits of the web server that depend on time; tests/integration/test_web_server.py has the others."""

import socket
import time
from collections.abc import Iterator

import pytest

from backend.demo.child_processes import free_port
from backend.web_server import IDLE_S, RECEIVE_S, WebServer
from worker.settings import Settings


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer(lambda _environ, _start: [], Settings(host="127.0.0.1", port=free_port()))
    yield server
    server.close()


@pytest.fixture
def client(server: WebServer) -> Iterator[socket.socket]:
    """A client that has sent half a request line, which has arrived."""
    with socket.create_connection(("127.0.0.1", server.effective_port), timeout=10) as client:
        client.sendall(b"GET /hea")
        while not any(channel.request for channel in server.active_channels.values()):
            server.loop_once()
        yield client


def is_closed(server: WebServer, client: socket.socket) -> bool:
    """Let the server do what it decided; say whether it closed the connection."""
    server.loop_once()
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_request_that_takes_too_long_to_arrive_is_dropped_however_slowly_it_comes(
    server: WebServer, client: socket.socket
) -> None:
    now = time.time()
    [channel] = server.active_channels.values()

    server.maintenance(now)
    channel.last_activity = now + RECEIVE_S  # one byte now and then
    server.maintenance(now + RECEIVE_S)
    stays = not is_closed(server, client)
    server.maintenance(now + RECEIVE_S + 1)

    assert stays
    assert is_closed(server, client)


def test_an_idle_connection_is_dropped(server: WebServer, client: socket.socket) -> None:
    server.maintenance(time.time() + IDLE_S + 1)

    assert is_closed(server, client)
