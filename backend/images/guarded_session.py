"""An HTTP session for addresses that we do not trust: it never connects to a metadata service.

Cloud machines read their credentials at link-local addresses. Such an address is refused when it is written in the URL
and when a host name leads to it. A server that sends the head of its reply slowly is cut off.
"""

import ipaddress
import socket
import threading
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from model.errors import ImageError


def make_guarded_session() -> requests.Session:
    """Return a session that keeps connections open, but no cookies; safe to share between threads."""
    session = requests.Session()
    adapter = _GuardedAdapter(pool_connections=16, pool_maxsize=16)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"})
    return session


def refuse_metadata_service(host: str) -> None:
    """Raise ImageError if the host is a link-local address."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return  # a host name; its address is checked after connecting
    mapped = getattr(address, "ipv4_mapped", None)
    if (mapped or address).is_link_local or address == ipaddress.ip_address("fd00:ec2::254"):
        raise ImageError(f"{host} is a link-local address, images are not fetched from there", "address")


class _GuardedConnection(HTTPConnection):
    """Checks the connected address before a byte is sent: a host name may lead to another address each time."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        try:
            refuse_metadata_service(str(connection.getpeername()[0]))
        except ImageError:
            connection.close()
            raise
        return connection

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 does the same
        """Wait for the whole head of the reply one second longer than for its first byte."""
        cut = threading.Timer((self.sock.gettimeout() or 0.0) + 1.0, self._cut)
        cut.daemon = True
        cut.start()
        try:
            return super().getresponse()
        finally:
            cut.cancel()

    def _cut(self) -> None:
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    """The same under https."""


class _GuardedPool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection


class _GuardedTLSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLSConnection


class _GuardedAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _GuardedPool, "https": _GuardedTLSPool}
