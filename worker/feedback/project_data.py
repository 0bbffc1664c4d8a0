"""Everything that is kept of a project: to forget it, and to begin anew where its id was given to a new project.

captioner:created           hash   project -> Unix time of its creation in Label Studio
captioner:title:<project>   text   title in Label Studio, as the newest event or pull gave it
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import LockError
from rq.utils import as_text

from model.store import Store
from model.vision.features import FeatureStore
from worker.feedback.feedback_store import FeedbackStore, forgotten_key
from worker.feedback.left_projects import LEFT_KEY
from worker.feedback.record import Feedback
from worker.feedback.script import COUNTS_KEY, PROJECTS_KEY, key

logger = logging.getLogger(__name__)

CREATED_KEY = "captioner:created"
EARLIEST = 1_400_000_000
"""In 2014. Label Studio is younger, so an earlier time is no time of creation."""
CLOCKS_DIFFER_S = 3600
"""A project that was created later than in this time does not exist."""
KEYS_AT_ONCE = 500
LOCK_S = 120
RETIRED = "retired"
LONGEST_TITLE = 200
"""Characters. Label Studio's own limit is 50."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """Counts of what was removed."""

    captions: int
    versions: int
    features: int

    def __str__(self) -> str:
        return f"{self.captions} captions, {self.versions} versions and the features of {self.features} images"


def begin_anew_if_new(
    redis: Redis, store: Store, project_id: int, created: int | None, *, is_confirmed: bool = False
) -> bool:
    """Note when a project was created; retire what is kept of another project with the same id.

    Its corrections are written to `retired/<project>-<time>/corrections.jsonl` in the store, its versions are moved
    beside them, and the new project starts with the bundle.

    Anybody may call the backend with a made-up time. So a confirmed time is believed in any case: an earlier one brings
    back the versions that were retired wrongly. The pull brings back the corrections.

    Args:
        redis: holds the corrections.
        store: holds the versions.
        project_id: Label Studio's.
        created: Unix time of the project's creation; None if that is not known.
        is_confirmed: our Label Studio gave this time, and not a caller.

    Returns:
        True if another project was retired.

    Raises:
        RedisError, StoreError: it could not be done; the next call goes on.
    """
    if created is None or not EARLIEST <= created <= time.time() + CLOCKS_DIFFER_S:
        return False
    before = _created(redis, project_id)
    if before == created or (before > created and not is_confirmed):  # an older time is of a late event
        return False
    if not before and redis.hsetnx(CREATED_KEY, str(project_id), created):
        return False
    with (
        suppress(LockError),
        redis.lock(f"captioner:retire-lock:{project_id}", timeout=LOCK_S, blocking_timeout=LOCK_S),
    ):
        before = _created(redis, project_id)
        is_another = before != created and (before < created or is_confirmed)
        if is_another and before:
            _retire(redis, store, project_id, before)
            _bring_back(store, project_id, created)
        if is_another:
            redis.hset(CREATED_KEY, str(project_id), created)
        return is_another and before > 0
    return False


def note_title(redis: Redis, project_id: int, title: str) -> None:
    """Remember the title of a project, for the admin pages."""
    redis.set(key("title", project_id), title[:LONGEST_TITLE].encode("utf-8", "replace"))


def read_titles(redis: Redis, project_ids: Sequence[int]) -> dict[int, str]:
    """Return the titles that are known and not empty."""
    titles = redis.mget([key("title", project_id) for project_id in project_ids]) if project_ids else []
    return {project_id: as_text(title) for project_id, title in zip(project_ids, titles, strict=True) if title}


def forget_project(redis: Redis, store: Store, project_id: int) -> Forgotten:
    """Remove the captions, versions and features of a project, and of earlier projects with the same id.

    Features of images that other projects use too stay. People whose captions were removed before are remembered.

    Raises:
        RedisError, StoreError: not everything could be removed; another call removes the rest.
    """
    feedback = FeedbackStore(redis)
    captions = sum(record.caption is not None for record in feedback.records(project_id))
    own = set(_image_keys(redis, project_id))
    for other in set(_projects_with_suggestions(redis)) - {project_id}:
        own.difference_update(_image_keys(redis, other))
    features = _delete_features(store, own)
    folders = [f"projects/{project_id}", *_retired_folders(store, project_id)]
    files = [path for folder in folders for path in store.list(folder)]
    versions = sum(path.endswith("/version.json") for path in files)
    for path in files:
        store.delete(path)
    _delete_keys(redis, project_id, spared=forgotten_key(project_id))
    redis.hdel(CREATED_KEY, str(project_id))
    return Forgotten(captions=captions, versions=versions, features=features)


def forget_annotator(redis: Redis, store: Store, project_id: int, annotator: int) -> int:
    """Remove the captions of a person, who is known by Label Studio's user id; return how many there were.

    Those that records of versions quote and those of earlier projects with the same id leave too. Later pulls and
    events do not bring them back.

    Raises:
        RedisError, StoreError: not everything could be removed; another call removes the rest.
    """
    feedback = FeedbackStore(redis)
    redis.sadd(forgotten_key(project_id), str(annotator))
    own = [record for record in feedback.records(project_id) if record.annotator == annotator]
    _remove_quotes(store, f"projects/{project_id}", {record.name for record in own})
    for folder in _retired_folders(store, project_id):
        _remove_quotes(store, folder, _remove_lines(store, f"{folder}/corrections.jsonl", annotator))
    feedback.remove(project_id, annotation_ids={record.annotation_id for record in own})
    if own:
        # For a day the store could bring a removed record back, as it was.
        redis.hdel(key("removed", project_id), *(f"n:{record.name}" for record in own))
    return sum(record.caption is not None for record in own)


def _remove_lines(store: Store, path: str, annotator: int) -> set[str]:
    """Remove the records of a person from a file of records; return their names."""
    records = [Feedback.from_json(line) for line in (store.read(path) or b"").splitlines()]
    if removed := {record.name for record in records if record.annotator == annotator}:
        lines = [record.to_json() for record in records if record.annotator != annotator]
        store.write(path, "\n".join([*lines, ""]).encode())
    return removed


def _remove_quotes(store: Store, folder: str, names: Set[str]) -> None:
    """Remove what records of versions quote of corrections with these names."""
    for path in store.list(f"{folder}/versions") if names else ():
        if not path.endswith("/version.json"):
            continue
        try:
            fields = json.loads(store.read(path) or b"")
            samples = fields["metrics"]["samples"]
            of_others = [sample for sample in samples if sample["correction"] not in names]
        except (ValueError, RecursionError, KeyError, TypeError):  # no record of a version, or one without samples
            continue
        if len(of_others) < len(samples):
            fields["metrics"]["samples"] = of_others
            store.write(path, json.dumps(fields, ensure_ascii=False, indent=1).encode())


def _created(redis: Redis, project_id: int) -> int:
    """Return the time of creation that is noted; 0 for none."""
    return int(redis.hget(CREATED_KEY, str(project_id)) or 0)


def _retire(redis: Redis, store: Store, project_id: int, created: int) -> None:
    folder = f"{RETIRED}/{project_id}-{created}"
    lines = [record.to_json() for record in FeedbackStore(redis).records(project_id)]
    if lines:
        store.write(f"{folder}/corrections.jsonl", "\n".join([*lines, ""]).encode())
    own = f"projects/{project_id}/"
    for path in store.list(own):
        content = store.read(path)
        if content is not None:
            store.write(f"{folder}/{path.removeprefix(own)}", content)
        store.delete(path)
    _delete_keys(redis, project_id)
    logger.warning(
        "id is used by a new project project=%s; %s records of the earlier one are in %s",
        project_id,
        len(lines),
        folder,
    )


def _bring_back(store: Store, project_id: int, created: int) -> None:
    """Move the versions of this project back, if it was retired before."""
    folder = f"{RETIRED}/{project_id}-{created}/"
    for path in store.list(folder.rstrip("/")):
        content = store.read(path)
        if content is not None and not path.endswith("/corrections.jsonl"):
            store.write(f"projects/{project_id}/{path.removeprefix(folder)}", content)
            store.delete(path)


def _retired_folders(store: Store, project_id: int) -> list[str]:
    return [f"{RETIRED}/{name}" for name in store.names(RETIRED) if name.startswith(f"{project_id}-")]


def _keys(redis: Redis, project_id: int) -> Iterator[bytes]:
    """Yield every key of a project: "captioner:<noun>:<project>", with or without more behind it."""
    named = re.compile(rf"captioner:[^:]+:{project_id}(:.*)?".encode(), re.DOTALL)
    for name in redis.scan_iter(match=f"captioner:*:{project_id}*", count=KEYS_AT_ONCE):
        if named.fullmatch(name):
            yield name


def _delete_keys(redis: Redis, project_id: int, spared: str = "") -> None:
    keys = [name for name in _keys(redis, project_id) if b"-lock:" not in name and as_text(name) != spared]
    for start in range(0, len(keys), KEYS_AT_ONCE):
        redis.unlink(*keys[start : start + KEYS_AT_ONCE])
    counters = re.compile(rf"(gate|correction|edit):{project_id}:")
    if counts := [name for name in redis.hkeys(COUNTS_KEY) if counters.match(as_text(name))]:
        redis.hdel(COUNTS_KEY, *counts)
    redis.srem(PROJECTS_KEY, str(project_id))
    redis.hdel(LEFT_KEY, str(project_id))


def _projects_with_suggestions(redis: Redis) -> Iterator[int]:
    for name in redis.scan_iter(match="captioner:suggestions:*", count=KEYS_AT_ONCE):
        number = as_text(name).split(":")[2]
        if number.isdecimal():
            yield int(number)


def _image_keys(redis: Redis, project_id: int) -> Iterator[str]:
    """Yield the keys of the images that were suggested for or corrected in a project."""
    for record in FeedbackStore(redis).records(project_id):
        if record.image_key is not None:
            yield record.image_key
    for name in redis.scan_iter(match=f"captioner:suggestions:{project_id}:*", count=KEYS_AT_ONCE):
        for text in redis.lrange(name, 0, -1):
            yield str(json.loads(text)["image_key"])


def _delete_features(store: Store, image_keys: set[str]) -> int:
    """Remove the features of these images, of every encoder; return the number of images that had any."""
    with_features = set()
    for features in FeatureStore.of_all_encoders(store):
        with_features |= {image_key for image_key in image_keys if features.delete(image_key)}
    return len(with_features)
