"""Health of Redis, the model store, its disk and Label Studio, each in one sentence."""

import logging
import shutil
from dataclasses import dataclass

from redis import RedisError

from backend.captioning.services import CaptioningServices
from backend.label_studio.health import LabelStudioHealth
from model.errors import CaptionerError
from worker.queue.job_metrics import JobCounts

LITTLE_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Health:
    """State of one dependency."""

    name: str
    is_well: bool
    words: str


def check_dependencies(
    services: CaptioningServices, label_studio: LabelStudioHealth, *, redis_answers: bool
) -> tuple[Health, ...]:
    """Return the health of every dependency; sends nothing to a Redis that does not answer."""
    return (
        _redis(services, redis_answers),
        _store(services, redis_answers),
        *_disk(services),
        _label_studio(services, label_studio),
    )


def _label_studio(services: CaptioningServices, label_studio: LabelStudioHealth) -> Health:
    if services.settings.label_studio_api_key is None:
        words = "LABEL_STUDIO_API_KEY is not set, so missed corrections are not pulled"
        return Health(name="Label Studio", is_well=False, words=words)
    if label_studio.is_up():
        return Health(name="Label Studio", is_well=True, words="answers")
    words = f"does not answer at {services.settings.label_studio_url}"
    return Health(name="Label Studio", is_well=False, words=words)


def _redis(services: CaptioningServices, answers: bool) -> Health:
    try:
        info = services.redis.info() if answers else None
    except RedisError as problem:
        logging.getLogger(__name__).warning("health of redis unknown problem=%s", problem)
        info = None
    if info is None:
        return Health(name="Redis", is_well=False, words="cannot be reached: nothing can be changed until it answers")
    used = f"{info['used_memory'] / 1e6:.0f} MB used"
    if not info.get("aof_enabled"):
        return Health(name="Redis", is_well=False, words=f"{used}; without `appendonly yes` a crash loses corrections")
    if info.get("aof_last_write_status") != "ok":
        words = f"{used}; its last write to disk failed, so a crash loses corrections; its log says why"
        return Health(name="Redis", is_well=False, words=words)
    return Health(name="Redis", is_well=True, words=f"{used}, everything written to disk")


def _store(services: CaptioningServices, redis_answers: bool) -> Health:
    folder = services.store.folder
    try:
        services.store.exists("ready")
        if folder is None or folder.is_dir():
            return Health(name="Model store", is_well=True, words="answers")
        if redis_answers and not JobCounts(services.redis).read().decisions:
            return Health(name="Model store", is_well=True, words="is empty")
    except CaptionerError as problem:
        return Health(name="Model store", is_well=False, words=str(problem))
    except RedisError:
        pass  # the health of Redis says so
    return Health(name="Model store", is_well=False, words=f"{folder} does not exist; is its disk mounted?")


def _disk(services: CaptioningServices) -> tuple[Health, ...]:
    """Return the free space on the disk of the store; nothing for a store that is not a directory."""
    folder = services.store.folder
    if folder is None or not folder.is_dir():
        return ()
    free = shutil.disk_usage(folder).free
    return (Health(name="Disk", is_well=free > LITTLE_DISK_BYTES, words=f"{free / 1e9:.1f} GB free"),)
