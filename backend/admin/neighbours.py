"""What the backend stands on: Redis, the model store, Label Studio; and whether each is well, in words."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from redis import RedisError

from backend.captioning import CaptioningParts
from backend.label_studio.health import LabelStudioHealth
from model.errors import CaptionerError

LITTLE_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Health:
    """One neighbour."""

    name: str
    is_well: bool
    words: str


def look_at_neighbours(
    parts: CaptioningParts, label_studio: LabelStudioHealth, *, redis_answers: bool
) -> tuple[Health, ...]:
    """Return how all of them are; a Redis that does not answer is not asked."""
    return (_redis(parts, redis_answers), _store(parts), *_disk(parts), _label_studio(parts, label_studio))


def _label_studio(parts: CaptioningParts, found: LabelStudioHealth) -> Health:
    if parts.settings.label_studio_api_key is None:
        return Health(name="Label Studio", is_well=False, words="LABEL_STUDIO_API_KEY is not set: nothing is pulled")
    if found.is_up():
        return Health(name="Label Studio", is_well=True, words="answers")
    return Health(name="Label Studio", is_well=False, words=f"does not answer at {parts.settings.label_studio_url}")


def _redis(parts: CaptioningParts, answers: bool) -> Health:
    try:
        found = parts.redis.info() if answers else None
    except RedisError as problem:
        logging.getLogger(__name__).warning("redis not asked problem=%s", problem)
        found = None
    if found is None:
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
