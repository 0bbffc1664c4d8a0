"""Check everything the product needs: one line for each finding, with the way to repair it.

Each check is a generator of findings, so a person can read the first lines while later checks are still running.
"""

import time
import uuid
from collections.abc import Callable, Iterator

from PIL import Image
from redis import Redis, RedisError
from rq import Worker

from backend.doctor.findings import Finding
from backend.doctor.label_studio import check_label_studio
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.runtime.serving_bundle import load_serving_bundle
from model.store import Store
from worker.queue.job_state import QUEUES, queue
from worker.settings import Settings, hide_password


def examine(settings: Settings, *, repair: bool = False, show: Callable[[str], None] = print) -> int:
    """Show each finding on its line; return the exit code, 0 only if all is well now."""
    wrong = 0
    for finding in diagnose(settings, repair=repair):
        show(str(finding))
        wrong += not finding.ok
    return 1 if wrong else 0


def diagnose(settings: Settings, *, repair: bool = False) -> Iterator[Finding]:
    """Check Redis, the model store and the model, then Label Studio; nothing is changed unless `repair`."""
    yield from _redis(settings)
    yield from _store(settings)
    yield from _model(settings)
    yield from check_label_studio(settings, repair=repair)


def _redis(settings: Settings) -> Iterator[Finding]:
    name, address = "Redis", hide_password(settings.redis_url)
    try:
        with Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5) as redis:
            redis.ping()
            yield Finding(name=name, ok=True, message=f"answers at {address}")
            yield _append_only(redis)
            yield _eviction(redis)
            yield _workers(redis)
    except (RedisError, OSError) as problem:
        remedy = "start it (`make run`, `docker compose up redis`) or correct REDIS_URL"
        if "CERTIFICATE_VERIFY_FAILED" in str(problem):
            remedy = "add ?ssl_ca_certs=FILE to REDIS_URL: the certificate of the authority that signed that of Redis"
        yield Finding(name=name, ok=False, message=f"{address} does not answer: {problem}", remedy=remedy)


def _append_only(redis: Redis) -> Finding:
    name, value = "Redis durability", _redis_setting(redis, "appendonly")
    if value is None:
        return Finding(name=name, ok=True, message="unknown: this Redis does not show its settings")
    if value != "yes":
        message = "corrections are lost when Redis stops, because it runs without an append-only file"
        return Finding(name=name, ok=False, message=message, remedy="start it with --appendonly yes")
    return Finding(name=name, ok=True, message="every write goes to an append-only file")


def _eviction(redis: Redis) -> Finding:
    name = "Redis eviction"
    policy, limit = _redis_setting(redis, "maxmemory-policy"), _redis_setting(redis, "maxmemory")
    if policy is None:
        return Finding(name=name, ok=True, message="unknown: this Redis does not show its settings")
    if policy != "noeviction" and limit != "0":
        message = f"when its memory is full, Redis deletes corrections and jobs: maxmemory-policy is {policy}"
        return Finding(name=name, ok=False, message=message, remedy="set maxmemory-policy noeviction")
    return Finding(name=name, ok=True, message="nothing is deleted when memory is full")


def _redis_setting(redis: Redis, name: str) -> str | None:
    """Return a setting of Redis itself, or None where a hosted Redis does not show it."""
    try:
        settings = redis.config_get(name)
    except RedisError:
        return None
    value: str | None = settings.get(name)
    return value


def _workers(redis: Redis) -> Finding:
    listening = {name: Worker.count(queue=queue(redis, name)) for name in QUEUES}
    missing = [name for name, count in listening.items() if not count]
    if missing:
        message = f"no worker listens to the queue {' and '.join(missing)}, so nothing is learned"
        return Finding(name="worker", ok=False, message=message, remedy="start `captioner worker`")
    return Finding(name="worker", ok=True, message=f"{min(listening.values())} listening")


def _store(settings: Settings) -> Iterator[Finding]:
    path, written = f"doctor/{uuid.uuid4().hex}", b"written by captioner doctor"
    place = hide_password(settings.model_store)
    try:
        store = Store(settings.model_store)
        store.write(path, written)
        is_same = store.read(path) == written
        store.delete(path)
    except (CaptionerError, OSError) as problem:
        remedy = "set MODEL_STORE to a directory or URL that this user may write to"
        yield Finding(name="store", ok=False, message=str(problem), remedy=remedy)
        return
    message = f"{place} can be read and written" if is_same else f"{place} returns other bytes than were written"
    yield Finding(name="store", ok=is_same, message=message, remedy=None if is_same else "use another MODEL_STORE")


def _model(settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        captioner = load_serving_bundle(settings.caption_bundle).captioner()
        features = captioner.encode([Image.new("RGB", (64, 64), "grey")])
        [[caption]] = captioner.caption(features, DecodingOptions(beam_size=settings.beam_size))
    except CaptionerError as problem:
        remedy = "set CAPTION_BUNDLE to photos, scenes or the directory of a bundle"
        yield Finding(name="model", ok=False, message=str(problem), remedy=remedy)
        return
    seconds = time.monotonic() - began
    message = f"{captioner.version} was loaded and captioned an empty picture ({caption.text!r}) in {seconds:.1f} s"
    yield Finding(name="model", ok=True, message=message)
