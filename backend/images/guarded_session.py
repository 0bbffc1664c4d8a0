"""An HTTP session for addresses that we do not trust: it asks an AddressPolicy before it connects.

A host name is resolved once, and only an address that was checked is connected to. A server that sends the head of its
reply slowly is cut off.
"""

import socket
import threading
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError
from urllib3.response import HTTPResponse

from backend.images.addresses import AddressPolicy


def make_guarded_session(policy: AddressPolicy) -> requests.Session:
    """Return a session that keeps connections open, but no cookies; safe to share between threads."""
    session = requests.Session()
    adapter = _GuardedAdapter(policy, pool_connections=16, pool_maxsize=16)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"})
    return session


class _GuardedConnection(HTTPConnection):
    """Connects to an address that the policy allows; a host name may lead to another address each time."""

    policy: AddressPolicy

    def _new_conn(self) -> socket.socket:
        name, problem = self._dns_host, None
        try:
            resolved = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as cause:
            raise NameResolutionError(self.host, self, cause) from cause
        addresses = list(dict.fromkeys(str(each[4][0]) for each in resolved))
        for address in addresses:
            self.policy.check(self.host, self.port, address)
        for address in addresses:
            self._dns_host = address
            try:
                return super()._new_conn()
            except Exception as cause:  # noqa: BLE001 - the next address is tried
                problem = cause
            finally:
                self._dns_host = name
        assert problem is not None
        raise problem

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 does the same
        """Wait for the whole head of the reply one second longer than for its first byte.

        The socket of a new connection still has the limit for connecting; `timeout` is already that for reading.
        """
        cut = threading.Timer((self.timeout or 0.0) + 1.0, self._cut)
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


class _GuardedAdapter(HTTPAdapter):
    def __init__(self, policy: AddressPolicy, **options: Any) -> None:
        self._policy = policy
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._policy)


def _pools(of: AddressPolicy) -> dict[str, type[HTTPConnectionPool]]:
    """Return the kinds of pools whose connections follow a policy."""

    class Connection(_GuardedConnection):
        policy = of

    class TLSConnection(_GuardedTLSConnection):
        policy = of

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = TLSConnection

    return {"http": Pool, "https": TLSPool}
