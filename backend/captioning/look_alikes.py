"""The tasks whose stored suggestions may change with a correction: those of images that look like the corrected one.

captioner:suggested:<project>   hash   task id -> field, image key, corrections that spoke for its caption
captioner:refreshed:<project>   text   generation up to which the suggestions of look-alikes were written again
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from redis import Redis
from rq.utils import as_text

from backend.captioning.image_vectors import ImageVectors
from backend.captioning.judgement import Judgement
from backend.images.task_images import TaskImage
from model.memory.index import MemoryIndex
from worker.feedback.script import key

PER_CORRECTION = 25
"""Tasks that are looked at for each changed correction."""
AT_ONCE = 500
"""Tasks that are looked at in one job."""


class LookAlikes:
    """The tasks of one project that have suggestions. Every method may raise RedisError."""

    def __init__(self, redis: Redis, project_id: int, vectors: ImageVectors) -> None:
        self._redis, self._vectors = redis, vectors
        self._suggested, self._refreshed = key("suggested", project_id), key("refreshed", project_id)
        self._latest = key("latest", project_id)

    def note(self, suggested: Mapping[int, tuple[TaskImage, tuple[str, ...]]]) -> None:
        """Remember by task its image, and the names of the corrections that spoke for its suggestion."""
        if not suggested:
            return
        self._vectors.keep({image.image_key: image.features for image, _ in suggested.values()})
        places = {
            str(task_id): json.dumps([image.control.from_name, image.image_key, *like])
            for task_id, (image, like) in suggested.items()
        }
        self._redis.hset(self._suggested, items=[part for place in places.items() for part in place])

    def find(
        self, indexes: Mapping[str, MemoryIndex], judgements: Mapping[str, Judgement], generation: int
    ) -> list[int]:
        """Return the tasks whose suggestions may have changed since they were written.

        These are the tasks for whose suggestion a changed correction spoke, and those whose images are most like the
        image of one.

        Args:
            indexes: of each field.
            judgements: of each field.
            generation: up to which corrections are known.
        """
        before = int(self._redis.get(self._refreshed) or 0)
        found: Any = self._redis.zrangebyscore(self._latest, f"({before}", generation)
        changed = {as_text(name) for name in found}
        stored = self._redis.hgetall(self._suggested)
        suggested = {int(task_id): json.loads(text) for task_id, text in stored.items()}
        tasks = {task_id for task_id, (_, _, *like) in suggested.items() if not changed.isdisjoint(like)}
        for field, judgement in judgements.items():
            images = {task_id: image_key for task_id, (of, image_key, *_) in suggested.items() if of == field}
            if judgement.is_open and field in indexes:
                tasks |= self._most_alike(indexes[field], changed, images, judgement.limit)
        return sorted(tasks)[:AT_ONCE]

    def mark(self, generation: int, gone: Iterable[int]) -> None:
        """Note that the suggestions are as this generation has them, and that some tasks need none any more."""
        self._redis.set(self._refreshed, generation)
        if task_ids := [str(task_id) for task_id in gone]:
            self._redis.hdel(self._suggested, *task_ids)

    def _most_alike(self, index: MemoryIndex, changed: set[str], images: Mapping[int, str], limit: float) -> set[int]:
        rows = index.vectors_of(changed)
        vectors = self._vectors.find(images.values())
        tasks = [task_id for task_id, image_key in images.items() if image_key in vectors]
        if not len(rows) or not tasks:
            return set()
        cosines = rows.astype(np.float32) @ np.stack([vectors[images[task]] for task in tasks]).astype(np.float32).T
        nearest = np.argsort(-cosines, axis=1)[:, :PER_CORRECTION]
        is_alike = np.take_along_axis(cosines, nearest, axis=1) >= limit
        return {tasks[place] for place in nearest[is_alike]}
