"""What the backend stands on: Redis, the model store, Label Studio; and whether each is well, in words."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redis import RedisError

from backend.captioning import CaptioningParts
from backend.label_studio.client import LabelStudioClient
from model.errors import CaptionerError

ASKED_AGAIN_S = 15.0
LITTLE_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Health:
    """One neighbour."""

    name: str
    is_well: bool
    words: str


class LabelStudioHealth:
    """Asks Label Studio beside the requests, so that no page waits for it."""

    def __init__(self, client: LabelStudioClient | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._known: tuple[bool, str] = (True, "not asked yet")
        self._asked_at: float | None = None
        self._asking = threading.Lock()

    def health(self) -> Health:
        """Return what was known last; what is old is asked for meanwhile."""
        is_old = self._asked_at is None or self._clock() - self._asked_at > ASKED_AGAIN_S
        if self._client is not None and is_old and self._asking.acquire(blocking=False):
            threading.Thread(target=self._ask, name="ask-label-studio", daemon=True).start()
        known = (False, "LABEL_STUDIO_API_KEY is not set") if self._client is None else self._known
        return Health(name="Label Studio", is_well=known[0], words=known[1])

    def _ask(self) -> None:
        try:
            assert self._client is not None
            version = self._client.server_version()
            self._known = (True, f"version {version} answers")
        except CaptionerError as problem:
            self._known = (False, str(problem))
        finally:
            self._asked_at = self._clock()
            self._asking.release()


def look_at_neighbours(parts: CaptioningParts, label_studio: LabelStudioHealth) -> tuple[Health, ...]:
    """Return how all of them are."""
    return (_redis(parts), _store(parts), *_disk(parts), label_studio.health())


def _redis(parts: CaptioningParts) -> Health:
    try:
        found = parts.redis.info()
    except RedisError as problem:
        logging.getLogger(__name__).warning("redis not asked problem=%s", problem)
        return Health(name="Redis", is_well=False, words="cannot be reached: nothing can be changed until it answers")
    used = f"{found['used_memory'] / 1e6:.0f} MB used"
    if not found.get("aof_enabled"):
        return Health(name="Redis", is_well=False, words=f"{used}; without `appendonly yes` a crash loses corrections")
    return Health(name="Redis", is_well=True, words=f"{used}, everything written to disk")


def _store(parts: CaptioningParts) -> Health:
    try:
        parts.store.exists("ready")
    except CaptionerError as problem:
        return Health(name="Model store", is_well=False, words=str(problem))
    return Health(name="Model store", is_well=True, words="answers")


def _disk(parts: CaptioningParts) -> tuple[Health, ...]:
    """Return how full the store's disk is; nothing for a store elsewhere."""
    place = Path(parts.store.location)
    if "://" in parts.store.location or not place.exists():
        return ()
    free = shutil.disk_usage(place).free
    return (Health(name="Disk", is_well=free > LITTLE_DISK_BYTES, words=f"{free / 1e9:.1f} GB free"),)
