"""Finds out which backend of a Label Studio project is this installation.

A title, an address or a version proves nothing, because another installation may have the same. So a nonce is put into
our Redis, and Label Studio is asked for the project's backends. It then asks each of them for its version. Only a
backend that reads our Redis can answer with the nonce.

    captioner:nonce:<project>    text   exists while a proof runs; what `/setup` answers as the version meanwhile
    captioner:proved:<project>   hash   address of a backend that was proved to be ours -> Unix time of the last proof
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import LockError
from rq.utils import as_text

from backend.label_studio.client import ConnectedBackend, LabelStudioClient
from model.errors import LabelStudioError

PROOF_S = 60
"""A proof takes longer only if Label Studio no longer answers."""
PROVED_S = 3600
"""How long a proof is enough to read annotations and to write suggestions. Credentials always need a new one."""
WORKING = frozenset({"Connected", "Training", "Predicting"})
"""States of a backend that has just answered Label Studio."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The backends of a project."""

    ours: ConnectedBackend | None
    """The backend that has proved to be this installation."""
    backends: tuple[ConnectedBackend, ...]
    """All backends, in the order of connection. Label Studio asks only the first one for predictions."""

    @property
    def is_doubtful(self) -> bool:
        """No backend has proved to be ours, but some did not answer Label Studio."""
        return self.ours is None and any(backend.state not in WORKING for backend in self.backends)


def find_connection(client: LabelStudioClient, redis: Redis, project_id: int) -> Connection:
    """Let the backends of a project prove which of them is ours.

    Raises:
        LabelStudioError: the backends cannot be listed.
        RedisError: Redis does not answer.
    """
    with _nonce(redis, project_id) as nonce:
        backends = client.connected_backends(project_id)
    answered = next((backend for backend in backends if backend.model_version == nonce), None)
    if answered is None:
        return Connection(ours=None, backends=tuple(backends))
    redis.hset(_proved_key(project_id), answered.url, str(time.time()))
    # Label Studio keeps the last answer as the version of the backend, so it asks again.
    backends = client.connected_backends(project_id)
    ours = next((it for it in backends if (it.backend_id, it.url) == (answered.backend_id, answered.url)), None)
    return Connection(ours=ours, backends=tuple(backends))


def find_connection_again(client: LabelStudioClient, redis: Redis, project_id: int) -> Connection:
    """Return the same as `find_connection`; a proof of the last hour is enough for the same address.

    This is for what sends no credentials: every project is asked at every pull.
    """
    now = time.time()
    fresh = {url for url, proved_at in proved_addresses(redis, project_id).items() if now - proved_at < PROVED_S}
    if fresh:
        backends = tuple(client.connected_backends(project_id))
        ours = next((backend for backend in backends if backend.url in fresh), None)
        if ours is not None:
            return Connection(ours=ours, backends=backends)
    return find_connection(client, redis, project_id)


def proved_addresses(redis: Redis, project_id: int) -> dict[str, float]:
    """Return the addresses in this project that were proved to be ours, with the Unix time of the last proof."""
    return {as_text(url): float(moment) for url, moment in redis.hgetall(_proved_key(project_id)).items()}


def nonce_of(redis: Redis, project_id: int) -> str | None:
    """Return what `/setup` has to answer as the version while a proof runs; None at other times."""
    nonce = redis.get(_nonce_key(project_id))
    return None if nonce is None else as_text(nonce)


@contextmanager
def _nonce(redis: Redis, project_id: int) -> Iterator[str]:
    """Let `/setup` answer with a nonce while the block runs; one proof of a project at a time."""
    key, nonce = _nonce_key(project_id), f"proof-{secrets.token_hex(16)}"
    try:
        with redis.lock(f"{key}:lock", timeout=PROOF_S, blocking_timeout=PROOF_S):
            redis.set(key, nonce, ex=PROOF_S)
            try:
                yield nonce
            finally:
                redis.delete(key)
    except LockError as problem:
        raise LabelStudioError(f"the backends of project {project_id} did not answer within {PROOF_S} s") from problem


def _nonce_key(project_id: int) -> str:
    return f"captioner:nonce:{project_id}"


def _proved_key(project_id: int) -> str:
    return f"captioner:proved:{project_id}"
