"""The memory of each project in this process: what annotators wrote for look-alike images, from the next suggestion on.

    Redis (captions, by generation) -> rows with the vectors of their images -> judged by each other -> open or closed

Every prediction asks Redis for the project's generation and reads only what changed since. So a correction that is
changed, excluded or deleted leaves the memory with the next prediction, in every process. A closed memory changes
nothing at all. The rows depend on the bundle only. The judgement depends on the serving version, and is made anew in
the background when another version serves.

    captioner:vectors:<project>:<space>     hash   image key -> vector in half precision
    captioner:decoded:<project>:<version>   hash   image key -> the decoder's captions as JSON, best first
    captioner:memory:<project>              hash   version -> Judgement as JSON

All three are made again when they are gone or damaged.

Shapes:  P image regions   D feature size   V length of a vector
"""

import heapq
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from redis import Redis, RedisError

from backend.captioning.serving_versions import ServingCaptioners
from backend.captioning.style import ProjectStyle
from backend.images.task_images import TaskImage
from backend.protocol.predictions import SuggestedCaption
from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.memory.consensus import heaviest, rank, vote_weights
from model.memory.evidence import FEWEST, JUDGED, Evidence, likeness_limit, weigh_evidence
from model.memory.index import MemoryIndex, Nearest, Row
from model.memory.style import StyleRule, restyle
from model.memory.vectors import VectorSpace
from model.metrics.words import metric_words
from model.vision.features import FeatureStore
from model.vision.files import in_batches
from worker.feedback.caption_changes import Generation, read_changes, read_generation
from worker.feedback.record import Correction, state_of
from worker.feedback.script import key
from worker.feedback.selection import MAX_CHARACTERS
from worker.feedback.suggestions import label_of
from worker.policy import FIRST_IMAGES, is_held_out_of_memory

logger = logging.getLogger(__name__)

KEPT_S = 30 * 24 * 3600
"""Vectors and decoded captions that nobody has asked for so long are made again when they are needed."""
LOADED_MEMORIES = 16
READ_AT_ONCE = 1000
"""Changes that a prediction reads itself. More are read in the background; until then the decoder suggests alone."""
DECODED_AT_ONCE = 8
"""Images that a prediction decodes itself to judge the memory; more are decoded in the background."""
DECODER_BATCH = 16
DECODER_CAPTIONS = 3
"""Captions of the decoder, at least, that the memory chooses among."""
RETRIED = 50
"""Corrections without stored features that are looked at again with each prediction."""
MOST_CHANGES = 20
"""After so many changes the memory is judged again; a small memory sooner."""
LIKE = 3
"""Corrected images that are named as the reason for a caption."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether the memory of one field may speak."""

    generation: int
    """Of the corrections that were judged."""
    rows: int
    is_open: bool
    limit: float
    """Images that are less like every corrected image are of another kind: the decoder suggests alone."""
    evidence: Evidence | None = None
    style: tuple[StyleRule, ...] = ()
    """The wording of the project. It is applied to the decoder's captions, also while the memory is closed."""


class ProjectMemory:
    """The memory of one project for one bundle; safe to share between threads."""

    def __init__(self, redis: Redis, project_id: int, space: VectorSpace, features: FeatureStore) -> None:
        self.redis, self.project_id = redis, project_id
        self._space, self._features = space, features
        self._style = ProjectStyle(redis, project_id, self._stored_features)
        self._lock = threading.RLock()
        self._background: threading.Thread | None = None
        self._reset()

    @property
    def generation(self) -> int:
        """Of the captions that it knows."""
        return self._generation

    def __len__(self) -> int:
        return sum(map(len, self._indexes.values()))

    def label(self, version: str) -> str:
        """Return what Label Studio is told as the model version."""
        is_open = any(judgement.is_open or judgement.style for judgement in self._judgements.get(version, {}).values())
        return label_of(version, self._generation if is_open else None)

    def prepare(self, captioner: Captioner, judged: Callable[[], frozenset[str]], options: DecodingOptions) -> None:
        """Read what changed, and judge again if enough did. What takes long goes on in the background.

        Args:
            captioner: of the serving version.
            judged: returns the states of the corrections that the version was trained on.
            options: of the decoder.

        Raises:
            RedisError: Redis does not answer.
        """
        with self._lock:
            self._style.refresh()
            if not self._read(READ_AT_ONCE) or not self._judge(captioner, judged, options, DECODED_AT_ONCE):
                self._go_on(captioner, judged, options)

    def wait(self) -> None:
        """Wait until nothing goes on in the background."""
        thread = self._background
        if thread is not None:
            thread.join()

    def restyle(self, control: str, decoded: Sequence[SuggestedCaption], version: str) -> Sequence[SuggestedCaption]:
        """Return the decoder's captions for a field in the wording of the project."""
        with self._lock:
            judgement = self._judgements.get(version, {}).get(control)
            return self._style.restyle(decoded, judgement.style) if judgement and judgement.style else decoded

    def recall(
        self, image: TaskImage, task_id: int, decoded: Sequence[SuggestedCaption], version: str, count: int
    ) -> Sequence[SuggestedCaption]:
        """Return captions for an image, best first; the decoder's unchanged where it is to suggest alone.

        Args:
            image: the image, with the field that the caption is for.
            task_id: what was written for this task is left out.
            decoded: the decoder's captions, best first, at least one.
            version: of the decoder.
            count: number of captions.
        """
        control = image.control.from_name
        with self._lock:
            index, judgement = self._indexes.get(control), self._judgements.get(version, {}).get(control)
            if index is None or judgement is None or not judgement.is_open:
                return decoded
            vector = self._space.vectors([image.features])[0].astype(np.float32)
            nearest = index.nearest(vector, task_id=task_id)
            if not nearest.rows or nearest.cosines[0] < judgement.limit:
                return decoded
            return _choose(vector, nearest, decoded, index, count)

    def _reset(self) -> None:
        self._generation = 0
        self._names: set[str] = set()
        self._captions: dict[str, tuple[int, str]] = {}
        """Annotation id and field of each correction that has a caption."""
        self._held_out: dict[str, Correction] = {}
        self._without_vector: OrderedDict[str, Correction] = OrderedDict()
        self._indexes: dict[str, MemoryIndex] = {}
        self._judgements: dict[str, dict[str, Judgement]] = {}

    # Reading

    def _read(self, most: int | None) -> bool:
        """Read what changed; False when there is more than this many changes left to read."""
        generation = read_generation(self.redis, self.project_id)
        if generation.number < self._generation or generation.names < len(self._names):
            self._reset()  # Redis lost its data, and what came since has the same generations
        if most is not None and generation.number - self._generation > most and generation.names > most:
            return False
        while self._generation < generation.number:
            self._read_some(generation)
        self._retry()
        return True

    def _read_some(self, generation: Generation) -> None:
        changes = read_changes(self.redis, self.project_id, self._generation)
        for name, correction in changes.captions.items():
            self._forget(name)
            if correction is not None:
                self._captions[name] = (correction.annotation_id, correction.control)
        first = self._first_annotations()
        wanted = [correction for correction in changes.captions.values() if correction is not None]
        self._held_out |= {c.name: c for c in wanted if c.image_key and is_held_out_of_memory(c.image_key)}
        self._add([c for c in wanted if c.name not in self._held_out])
        of_first = {name for name in self._held_out if self._captions[name][0] in first}
        for name, correction in self._held_out.items():
            if name not in of_first:
                self._drop_row(name)
            elif name in changes.captions or not self._has_row(name):
                self._add([correction])
        self._names |= changes.captions.keys()
        self._generation = max(changes.up_to, generation.number if changes.is_all else 0)

    def _first_annotations(self) -> frozenset[int]:
        """Return the ids of the first annotations: no image of theirs is held out."""
        return frozenset(heapq.nsmallest(FIRST_IMAGES, {number for number, _ in self._captions.values()}))

    def _add(self, corrections: Sequence[Correction]) -> None:
        usable = [
            c for c in corrections if c.image_key and len(c.caption) <= MAX_CHARACTERS and metric_words(c.caption)
        ]
        vectors = self._vectors_of([str(correction.image_key) for correction in usable])
        for correction in usable:
            vector = vectors.get(str(correction.image_key))
            if vector is None:
                self._without_vector[correction.name] = correction
                continue
            index = self._indexes.setdefault(correction.control, MemoryIndex(self._space.length))
            index.add(
                Row(
                    name=correction.name,
                    image_key=str(correction.image_key),
                    task_id=correction.task_id,
                    updated_at=correction.updated_at,
                    caption=correction.caption,
                ),
                vector,
            )

    def _retry(self) -> None:
        """Look again for features that were not stored yet."""
        again = [self._without_vector.popitem(last=False)[1] for _ in range(min(RETRIED, len(self._without_vector)))]
        if again:
            self._add(again)

    def _forget(self, name: str) -> None:
        self._drop_row(name)
        self._captions.pop(name, None)
        self._held_out.pop(name, None)
        self._without_vector.pop(name, None)

    def _drop_row(self, name: str) -> None:
        for index in self._indexes.values():
            index.remove(name)

    def _has_row(self, name: str) -> bool:
        return name in self._without_vector or any(name in index for index in self._indexes.values())

    def _vectors_of(self, image_keys: Iterable[str]) -> dict[str, NDArray[np.float16]]:
        """Return the vectors of images whose features are or were stored; new ones are kept."""
        wanted = list(dict.fromkeys(image_keys))
        if not wanted:
            return {}
        stored_key = f"{key('vectors', self.project_id)}:{self._space.name}"
        stored = self.redis.hmget(stored_key, wanted)
        found = {
            image_key: np.frombuffer(cast(bytes, content), np.float16)
            for image_key, content in zip(wanted, stored, strict=True)
            if content is not None and len(content) == 2 * self._space.length
        }
        features = {image_key: self._stored_features(image_key) for image_key in wanted if image_key not in found}
        present = {image_key: values for image_key, values in features.items() if values is not None}
        computed = dict(zip(present, self._space.vectors(list(present.values())), strict=True))
        if computed:
            self.redis.hset(stored_key, mapping={name: vector.tobytes() for name, vector in computed.items()})
            self.redis.expire(stored_key, KEPT_S)
        return found | computed

    def _stored_features(self, image_key: str) -> torch.Tensor | None:
        try:
            return self._features.get(image_key)
        except CaptionerError as problem:
            logger.warning("features not read image_key=%s problem=%s", image_key, problem)
            return None

    # Judging

    def _judge(
        self,
        captioner: Captioner,
        trained: Callable[[], frozenset[str]],
        options: DecodingOptions,
        most: int | None,
    ) -> bool:
        """Judge every field whose corrections changed enough; False when more images than `most` must be decoded."""
        version = captioner.version
        judgements = self._judgements.setdefault(version, self._stored_judgements(version))
        due = [control for control, index in self._indexes.items() if self._is_due(judgements.get(control), index)]
        if not due:
            return True
        others = self._stored_judgements(version)
        for control in due:
            index = self._indexes[control]
            if not self._is_due(others.get(control), index):
                judgements[control] = others[control]
                continue
            newest = index.newest(JUDGED, partial(_is_unknown, trained()))
            decoded = self._decoded([row.image_key for row in newest.rows], captioner, options, most)
            if decoded is None:
                return False
            judgements[control] = self._judged(newest, index, decoded, captioner, judgements.get(control))
        self._store(version, judgements)
        return True

    def _is_due(self, judgement: Judgement | None, index: MemoryIndex) -> bool:
        if judgement is None or judgement.generation > self._generation:
            return True
        changes = self._generation - judgement.generation
        return changes >= max(1, min(len(index) // 10, MOST_CHANGES))

    def _judged(
        self,
        newest: Nearest,
        index: MemoryIndex,
        decoded: Mapping[str, Sequence[str]],
        captioner: Captioner,
        before: Judgement | None,
    ) -> Judgement:
        rows = [place for place, row in enumerate(newest.rows) if row.image_key in decoded]
        style = self._style.find(newest.rows, decoded, captioner)
        if len(rows) < FEWEST:
            # The version was trained on nearly all of them, so they say nothing about it.
            is_open = before is not None and before.is_open and len(index) >= FEWEST
            limit = before.limit if before else 1.0
            return Judgement(generation=self._generation, rows=len(index), is_open=is_open, limit=limit, style=style)
        evidence = weigh_evidence(
            newest.vectors[rows],
            [metric_words(newest.rows[place].caption) for place in rows],
            [[metric_words(restyle(text, style)) for text in decoded[newest.rows[place].image_key]] for place in rows],
            _vocabulary(captioner),
        )
        outcome = (self.project_id, len(index), evidence.speaks_for_memory, evidence)
        logger.info("memory judged project=%s rows=%s open=%s evidence=%s", *outcome)
        return Judgement(
            generation=self._generation,
            rows=len(index),
            is_open=evidence.speaks_for_memory,
            limit=likeness_limit(newest.vectors),
            evidence=evidence,
            style=style,
        )

    def _decoded(
        self, image_keys: Sequence[str], captioner: Captioner, options: DecodingOptions, most: int | None
    ) -> dict[str, list[str]] | None:
        """Return the decoder's captions of each image with stored features; None when `most` is too few."""
        if not image_keys:
            return {}
        stored_key = f"{key('decoded', self.project_id)}:{captioner.version}"
        stored = self.redis.hmget(stored_key, list(image_keys))
        texts = {name: json.loads(text) for name, text in zip(image_keys, stored, strict=True) if text is not None}
        missing = [name for name in image_keys if name not in texts]
        if most is not None and len(missing) > most:
            return None
        features = {name: values for name in missing if (values := self._stored_features(name)) is not None}
        for names in in_batches(features, DECODER_BATCH):
            captions = captioner.caption(torch.stack([features[name] for name in names]), options, DECODER_CAPTIONS)
            texts |= {name: [caption.text for caption in of] for name, of in zip(names, captions, strict=True)}
        if features:
            new = [part for name in features for part in (name, json.dumps(texts[name], ensure_ascii=False))]
            self.redis.hset(stored_key, items=new)
            self.redis.expire(stored_key, KEPT_S)
        return texts

    def _stored_judgements(self, version: str) -> dict[str, Judgement]:
        text = self.redis.hget(key("memory", self.project_id), version)
        try:
            return {control: _parse_judgement(values) for control, values in json.loads(text or "{}").items()}
        except (ValueError, TypeError, AttributeError, KeyError) as problem:
            logger.warning("judgement of the memory not read project=%s problem=%s", self.project_id, problem)
            return {}

    def _store(self, version: str, judgements: Mapping[str, Judgement]) -> None:
        values = {control: asdict(judgement) for control, judgement in judgements.items()}
        self.redis.hset(key("memory", self.project_id), version, json.dumps(values, ensure_ascii=False))

    def _go_on(self, captioner: Captioner, judged: Callable[[], frozenset[str]], options: DecodingOptions) -> None:
        if self._background is not None and self._background.is_alive():
            return

        def work() -> None:
            try:
                with self._lock:
                    self._read(None)
                    self._judge(captioner, judged, options, None)
            except (RedisError, CaptionerError) as problem:
                logger.warning("memory not read project=%s problem=%s", self.project_id, problem)

        self._background = threading.Thread(target=work, name=f"memory-{self.project_id}", daemon=True)
        self._background.start()


class Memories:
    """The memories of all projects on one bundle; safe to share between threads."""

    def __init__(self, redis: Redis, captioners: ServingCaptioners) -> None:
        self._redis, self._captioners = redis, captioners
        self._memories: OrderedDict[int, ProjectMemory] = OrderedDict()
        self._lock = threading.Lock()
        self._is_away = False

    def open(
        self, project_id: int, captioner: Captioner, features: FeatureStore, options: DecodingOptions
    ) -> ProjectMemory | None:
        """Return the project's memory as it is now; None where it cannot be read, which is logged once."""
        registry = self._captioners.registry
        try:
            memory = self._of(project_id, features)
            memory.prepare(captioner, lambda: registry.known_states(project_id, captioner.version), options)
        except (RedisError, CaptionerError) as problem:
            if not self._is_away:
                logger.warning("the decoder suggests alone, without memory project=%s problem=%s", project_id, problem)
            self._is_away = True
            return None
        self._is_away = False
        return memory

    def label_of(self, project_id: int, version: str) -> str:
        """Return what Label Studio is told as the model version; nothing is loaded."""
        try:
            text = self._redis.hget(key("memory", project_id), version)
            if text is None or not any(
                values["is_open"] or values.get("style") for values in json.loads(text).values()
            ):
                return version
            return label_of(version, read_generation(self._redis, project_id).number)
        except (RedisError, ValueError, TypeError, KeyError, AttributeError):
            return version

    def _of(self, project_id: int, features: FeatureStore) -> ProjectMemory:
        space = self._captioners.vector_space()
        with self._lock:
            memory = self._memories.get(project_id)
            if memory is None:
                memory = self._memories[project_id] = ProjectMemory(self._redis, project_id, space, features)
            self._memories.move_to_end(project_id)
            while len(self._memories) > LOADED_MEMORIES:
                self._memories.popitem(last=False)
            return memory


def _choose(
    vector: NDArray[np.float32], nearest: Nearest, decoded: Sequence[SuggestedCaption], index: MemoryIndex, count: int
) -> list[SuggestedCaption]:
    captions = [metric_words(row.caption) for row in nearest.rows]
    weights = vote_weights(vector, nearest.vectors)
    places = heaviest(weights, captions)
    candidates = [captions[place] for place in places] + [metric_words(caption.text) for caption in decoded]
    chosen = []
    for choice in rank(candidates, captions, weights, index.rarity)[:count]:
        like = tuple(nearest.rows[place].name for place in choice.speakers[:LIKE])
        if choice.place < len(places):
            text, score = nearest.rows[places[choice.place]].caption, min(max(choice.score, 0.0), 1.0)
            chosen.append(SuggestedCaption(text=text, score=score, like=like))
        else:
            chosen.append(replace(decoded[choice.place - len(places)], like=like))
    return chosen


def _is_unknown(states: frozenset[str], row: Row) -> bool:
    """Say whether a version that knows these corrections was trained without this one."""
    return state_of(row.name, row.updated_at) not in states


def _vocabulary(captioner: Captioner) -> frozenset[str]:
    return frozenset(word for token in captioner.tokenizer.words for word in metric_words(token))


def _parse_judgement(values: Mapping[str, Any]) -> Judgement:
    evidence = values["evidence"]
    style = tuple(StyleRule(**rule) for rule in values.get("style", ()))
    return Judgement(**{**values, "evidence": Evidence(**evidence) if evidence else None, "style": style})
