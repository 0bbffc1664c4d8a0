"""The memory of a project in this process: what annotators wrote for look-alike images, from the next suggestion on.

    Redis (captions, by generation) -> rows with the vectors of their images -> judged by each other -> open or closed

Every prediction asks Redis for the project's generation and reads only what changed since. So a correction that is
changed, excluded or deleted leaves the memory with the next prediction, in every process. A closed memory changes
nothing at all. The rows depend on the bundle only. The judgement depends on the serving version; when another version
serves, the earlier judgement holds until the new one is made in the background.
"""

import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from redis import Redis, RedisError

from backend.captioning.image_vectors import ImageVectors
from backend.captioning.judgement import (
    Judgement,
    have_effect,
    read_earlier_judgements,
    read_judgements,
    teach_alone,
    write_judgements,
)
from backend.captioning.look_alikes import LookAlikes
from backend.captioning.project_style import ProjectStyle
from backend.images.task_images import TaskImage
from backend.protocol.predictions import SuggestedCaption
from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.memory.consensus import heaviest, rank, vote_weights
from model.memory.evidence import FEWEST, JUDGED, Evidence, are_alike, are_apart, likeness_limit, weigh_evidence
from model.memory.experiment import Experiment, find_experiment
from model.memory.index import MemoryIndex, Nearest, Row
from model.memory.similarity import words_of
from model.memory.style import StyleRule, restyle, without_words
from model.memory.vectors import VectorSpace
from model.metrics.words import metric_words
from model.vision.features import FeatureStore
from worker.feedback.caption_changes import Generation, read_changes, read_generation
from worker.feedback.layout import run
from worker.feedback.record import Correction, state_of
from worker.feedback.selection import MAX_CHARACTERS
from worker.feedback.suggestions import label_of
from worker.feedback.waiting import note_taught_by_memory
from worker.policy import FIRST_IMAGES, is_decoder_alone, is_held_out_of_memory

logger = logging.getLogger(__name__)

READ_AT_ONCE = 1000
"""Changes that a prediction reads itself. More are read in the background; until then the decoder suggests alone."""
DECODED_AT_ONCE = 8
"""Images that a prediction decodes itself to judge the memory; more are decoded in the background."""
JUDGED_AT_ONCE = 32
"""Corrections that a prediction judges itself; more are judged in the background."""
RETRIED = 50
"""Corrections without stored features that are looked at again with each prediction at most."""
MOST_CHANGES = 20
"""After so many changes the memory is judged again; a small memory sooner."""
WHOLE = 0.9
"""Share of a field's corrections from which on those that are judged count as all."""
SETTLED = 30
"""New corrections that can close an open memory after a training. Fewer often seem unrelated by chance."""
LIKE = 3
"""Corrected images that are named as the reason for a caption."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The version that serves, as a memory is compared with it."""

    captioner: Captioner
    options: DecodingOptions
    trained_states: Callable[[], frozenset[str]]
    """Returns the states of the corrections that the version was trained on."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """An image that is to be captioned."""

    task_id: int
    """What was written for this task is left out."""
    image: TaskImage
    decoded: Sequence[SuggestedCaption]
    """The decoder's captions, best first, at least one."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """A field whose corrections are to be judged."""

    field: str
    newest: Nearest
    """Its newest corrections that the serving version was not trained on."""
    shown: Nearest | None
    """Its newest corrections, if a share of the images is left to the decoder."""
    rows: int
    """All of its corrections."""
    generation: int


class ProjectMemory:
    """The memory of one project for one bundle; safe to share between threads."""

    def __init__(
        self,
        redis: Redis,
        project_id: int,
        space: VectorSpace,
        features: FeatureStore,
        on_judged: Callable[[int, str, bool], None],
        decoder_alone_share: int = 0,
    ) -> None:
        """Begin empty; the first `prepare` reads.

        Args:
            redis: holds the corrections.
            project_id: Label Studio's.
            space: makes the vectors of images.
            features: of images.
            on_judged: is called with project, version, and whether the memory began or ceased to have an effect.
            decoder_alone_share: per cent of images that the decoder captions alone. What annotators make of its
                captions is compared with what they make of the memory's.
        """
        self.redis, self.project_id = redis, project_id
        self.vectors = ImageVectors(redis, project_id, space, features)
        self.tasks = LookAlikes(redis, project_id, self.vectors)
        self._on_judged, self._decoder_alone_share = on_judged, decoder_alone_share
        self._style = ProjectStyle(redis, project_id, self.vectors.features)
        self._lock = threading.RLock()
        self._judging = threading.Lock()
        self._background: threading.Thread | None = None
        self._is_behind = False
        """Many changes are being read in the background."""
        self._reset()

    @property
    def generation(self) -> int:
        """Of the captions that it knows."""
        return self._generation

    @property
    def names(self) -> frozenset[str]:
        """Of the corrections that it remembers."""
        with self._lock:
            return frozenset(name for index in self._indexes.values() for name in index.names)

    def is_open(self, version: str) -> bool:
        """Say whether the memory changes suggestions in any field, beside this version."""
        return not self._is_behind and have_effect(self._judgements.get(version, {}).values())

    def label(self, version: str) -> str:
        """Return what Label Studio is told as the model version."""
        return label_of(version, self._generation if self.is_open(version) else None)

    def prepare(self, serving: Serving) -> None:
        """Read what changed, and judge again if enough did. What takes long goes on in the background.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._is_behind:
            return
        with self._lock:
            self._is_behind = not self._read(READ_AT_ONCE)
            # A switch of a rule begins a new generation. So rules that are read after the generation are never older.
            self._style.refresh()
            due = [] if self._is_behind else self._due(serving)
        takes_long = any(len(field.newest.rows) > JUDGED_AT_ONCE for field in due)
        if self._is_behind or takes_long or not self._judge(due, serving, DECODED_AT_ONCE):
            self._go_on(serving)

    def is_of_another_kind(self, images: Sequence[TaskImage], version: str) -> list[bool]:
        """Say of each image whether it is like none that annotators corrected, in a project of a kind of its own.

        A version that learned such a project may have forgotten other kinds, which the bundle knows.
        """
        is_other = [False] * len(images)
        if self._is_behind:
            return is_other
        with self._lock:
            for field, judgement in self._judgements.get(version, {}).items():
                places = [place for place, image in enumerate(images) if image.control.from_name == field]
                if not (places and judgement.is_open and judgement.is_unfamiliar):
                    continue
                vectors = self.vectors.space.vectors([images[place].features for place in places]).astype(np.float32)
                found = self._index(field).nearest(vectors)
                for place, is_alike in zip(places, self._are_alike(vectors, found, judgement), strict=True):
                    is_other[place] = not is_alike
        return is_other

    def recall(self, requests: Sequence[Request], version: str, count: int) -> list[Sequence[SuggestedCaption]]:
        """Return captions for each image, best first; the decoder's unchanged where it is to suggest alone.

        Args:
            requests: the images.
            version: of the decoder.
            count: number of captions for an image.
        """
        captions = [request.decoded for request in requests]
        if self._is_behind:
            return captions
        with self._lock:
            for field, judgement in self._judgements.get(version, {}).items():
                for place, request in enumerate(requests):
                    if request.image.control.from_name == field and judgement.style:
                        captions[place] = self._style.restyle(captions[place], judgement.style)
                if judgement.is_open:
                    self._speak(field, judgement, requests, captions, count)
        return captions

    def _speak(
        self,
        field: str,
        judgement: Judgement,
        requests: Sequence[Request],
        captions: list[Sequence[SuggestedCaption]],
        count: int,
    ) -> None:
        """Replace the captions of each image of a field that looks like a corrected one."""
        places = [
            place
            for place, request in enumerate(requests)
            if request.image.control.from_name == field
            and not is_decoder_alone(request.image.image_key, self._decoder_alone_share)
        ]
        images = self.vectors.space.vectors([requests[place].image.features for place in places]).astype(np.float32)
        index = self._index(field)
        found = index.nearest(images, [requests[place].task_id for place in places])
        are_alike = self._are_alike(images, found, judgement)
        for place, image, nearest, is_alike in zip(places, images, found, are_alike, strict=True):
            if is_alike:
                captions[place] = _choose(image, nearest, captions[place], index, count)

    def _are_alike(
        self, images: NDArray[np.float32], found: Sequence[Nearest], judgement: Judgement
    ) -> NDArray[np.bool_]:
        """Say of each image [Q, V] whether it is like a corrected one."""
        cosines = np.array([nearest.cosines[0] if nearest.rows else -1.0 for nearest in found], np.float32)
        to_own = self.vectors.space.nearest_own(images) if judgement.is_apart else None
        return are_alike(cosines, judgement.limit, to_own)

    def look_alikes(self, version: str) -> tuple[list[int], int]:
        """Return the tasks whose stored suggestions may have changed, and the generation of the corrections.

        Raises:
            RedisError: Redis does not answer.
        """
        with self._lock:
            found = self.tasks.find(self._indexes, self._judgements.get(version, {}), self._generation)
            return found, self._generation

    def _reset(self) -> None:
        self._is_behind = False
        self._generation = 0
        self._first: frozenset[int] = frozenset()
        """Ids of the first annotations: no image of theirs is held out."""
        self._names = 0
        """Corrections that ever changed."""
        self._held_out: dict[str, Correction] = {}
        self._without_vector: OrderedDict[str, Correction] = OrderedDict()
        self._indexes: dict[str, MemoryIndex] = {}
        self._judgements: dict[str, dict[str, Judgement]] = {}

    # Reading

    def _read(self, most: int) -> bool:
        """Read what changed; False when there is more than this many changes left to read."""
        generation = read_generation(self.redis, self.project_id)
        if generation.number < self._generation or generation.names < self._names:
            self._reset()  # Redis lost its data, and what came since has the same generations
        if generation.number - self._generation > most and generation.names > most:
            return False
        while self._generation < generation.number:
            self._read_some(generation)
        self._retry()
        return True

    def _read_some(self, generation: Generation) -> None:
        changes = read_changes(self.redis, self.project_id, self._generation)
        for name in changes.captions:
            self._forget(name)
        wanted = [correction for correction in changes.captions.values() if correction is not None]
        last = max(self._first, default=0)
        if len(self._first) < FIRST_IMAGES or any(_annotation_of(name) <= last for name in changes.captions):
            names = [*self.names, *self._held_out, *self._without_vector, *(correction.name for correction in wanted)]
            self._first = frozenset(heapq.nsmallest(FIRST_IMAGES, set(map(_annotation_of, names))))
        self._held_out |= {c.name: c for c in wanted if c.image_key and is_held_out_of_memory(c.image_key)}
        self._add([correction for correction in wanted if correction.name not in self._held_out])
        for name, correction in self._held_out.items():
            if correction.annotation_id not in self._first:
                self._drop_row(name)
            elif name in changes.captions or not self._has_row(name):
                self._add([correction])
        self._names = generation.names
        self._generation = max(changes.up_to, generation.number if changes.is_all else 0)

    def _add(self, corrections: Sequence[Correction]) -> None:
        usable = [c for c in corrections if c.image_key and len(c.caption) <= MAX_CHARACTERS]
        vectors = self.vectors.find(str(correction.image_key) for correction in usable)
        for correction in usable:
            vector = vectors.get(str(correction.image_key))
            if vector is None:
                self._without_vector[correction.name] = correction
                continue
            row = Row(
                name=correction.name,
                image_key=str(correction.image_key),
                task_id=correction.task_id,
                updated_at=correction.updated_at,
                caption=correction.caption,
                was_written_unseen=correction.arm != "shown",
                shown_by=_shown_by(correction),
                word_edits=correction.word_edits,
            )
            self._index(correction.control).add(row, vector)

    def _index(self, field: str) -> MemoryIndex:
        return self._indexes.setdefault(field, MemoryIndex(self.vectors.space.length))

    def _retry(self) -> None:
        """Look again for features that were not stored yet, until some are missing still."""
        for _ in range(min(RETRIED, len(self._without_vector))):
            name, correction = self._without_vector.popitem(last=False)
            self._add([correction])
            if name in self._without_vector:
                break  # each look costs a request to the store

    def _forget(self, name: str) -> None:
        self._drop_row(name)
        self._held_out.pop(name, None)
        self._without_vector.pop(name, None)

    def _drop_row(self, name: str) -> None:
        for index in self._indexes.values():
            index.remove(name)

    def _has_row(self, name: str) -> bool:
        return name in self._without_vector or any(name in index for index in self._indexes.values())

    # Judging

    def _due(self, serving: Serving) -> list[Due]:
        """Return the fields whose corrections changed enough to be judged."""
        judgements = self._judgements_of(serving.captioner.version)
        fields = [field for field in judgements.keys() | self._indexes.keys() if self._is_due(judgements, field)]
        if not fields:
            return []
        is_unknown = partial(_is_unknown, serving.trained_states())
        return [
            Due(
                field=field,
                newest=self._index(field).newest(JUDGED, is_unknown),
                # Training changes nothing about what annotators made of a caption, so no correction is left out.
                shown=self._index(field).newest(JUDGED) if self._decoder_alone_share else None,
                rows=len(self._index(field)),
                generation=self._generation,
            )
            for field in fields
        ]

    def _judge(self, due: Sequence[Due], serving: Serving, most: int | None) -> bool:
        """Judge fields; False when more images than `most` must be decoded. Other threads go on meanwhile."""
        if not due:
            return True
        with self._judging:
            version = serving.captioner.version
            others = read_judgements(self.redis, self.project_id, version)
            judgements = dict(self._judgements_of(version))
            for field in due:
                if not self._is_due(others, field.field):
                    judgements[field.field] = others[field.field]
                    continue
                keys = [row.image_key for row in field.newest.rows]
                decoded = self.vectors.decoded(keys, serving.captioner, serving.options, most)
                if decoded is None:
                    return False
                before = judgements.get(field.field)
                judgements[field.field] = self._judgement(field, decoded, serving.captioner, before)
            # A version that begins to serve renews all suggestions anyway.
            is_new = not others and bool(self._judgements_of(version))
            self._conclude(version, judgements if is_new else others, judgements)
        return True

    def _conclude(self, version: str, before: Mapping[str, Judgement], judgements: dict[str, Judgement]) -> None:
        """Store judgements, and tell what follows from them."""
        has_turned = have_effect(before.values()) != have_effect(judgements.values())
        if _wording(before) != _wording(judgements):
            # The wording concerns every suggestion, so all of them are made again.
            run(self.redis, self.project_id, "reword")
            has_turned = True
        write_judgements(self.redis, self.project_id, version, judgements)
        note_taught_by_memory(self.redis, self.project_id, teach_alone(judgements.values()))
        with self._lock:
            self._judgements[version] = judgements
        self._on_judged(self.project_id, version, has_turned)

    def _judgements_of(self, version: str) -> dict[str, Judgement]:
        if version not in self._judgements:
            stored = read_judgements(self.redis, self.project_id, version)
            self._judgements[version] = stored or read_earlier_judgements(self.redis, self.project_id)
        return self._judgements[version]

    def _is_due(self, judgements: Mapping[str, Judgement], field: str) -> bool:
        judgement, rows = judgements.get(field), len(self._index(field))
        if judgement is None or judgement.generation > self._generation or judgement.generation < 0:
            return True
        changes = max(self._generation - judgement.generation, abs(rows - judgement.rows))
        return changes >= max(1, min(rows // 10, MOST_CHANGES))

    def _judgement(
        self, due: Due, decoded: Mapping[str, Sequence[str]], captioner: Captioner, before: Judgement | None
    ) -> Judgement:
        newest, rows, generation = due.newest, due.rows, due.generation
        places = [place for place, row in enumerate(newest.rows) if row.image_key in decoded]
        style = self._style.find(newest.rows, decoded, captioner, before.style if before else ())
        is_whole_project = len(places) >= WHOLE * rows
        was_open = before is not None and before.is_open
        if len(places) < (SETTLED if was_open and not is_whole_project else FEWEST):
            # The version was trained on nearly all corrections, and these say nothing about it.
            is_open = was_open and rows >= FEWEST
            limit = before.limit if before else 1.0
            return Judgement(
                generation=generation,
                rows=rows,
                is_open=is_open,
                limit=limit,
                is_unfamiliar=before is not None and before.is_unfamiliar,
                is_apart=before is not None and before.is_apart,
                style=style if was_open else without_words(style),
            )
        evidence = _weigh(newest, places, decoded, style, captioner, is_whole_project)
        if not evidence.is_relevant:
            style = without_words(style)
            evidence = _weigh(newest, places, decoded, style, captioner, is_whole_project)
        limit, to_own = likeness_limit(newest.vectors), self.vectors.space.nearest_own(newest.vectors)
        evidence = replace(evidence, was_open=was_open, experiment=self._experiment(due.shown, limit))
        outcome = (self.project_id, due.field, rows, evidence.speaks_for_memory, evidence)
        logger.info("memory judged project=%s field=%s rows=%s open=%s evidence=%s", *outcome)
        return Judgement(
            generation=generation,
            rows=rows,
            is_open=evidence.speaks_for_memory,
            limit=limit,
            is_unfamiliar=evidence.is_unfamiliar,
            is_apart=evidence.is_unfamiliar and are_apart(newest.vectors, to_own),
            evidence=evidence,
            style=style,
        )

    def _experiment(self, shown: Nearest | None, limit: float) -> Experiment | None:
        is_left = partial(is_decoder_alone, percent=self._decoder_alone_share)
        return find_experiment(shown, limit, is_left) if shown else None

    # In the background

    def _go_on(self, serving: Serving) -> None:
        """Read and judge in the background. Other threads get their turn between parts of the work."""
        if self._background is not None and self._background.is_alive():
            return
        self._background = threading.Thread(
            target=self._work, args=(serving,), name=f"memory-{self.project_id}", daemon=True
        )
        self._background.start()

    def _work(self, serving: Serving) -> None:
        try:
            generation = read_generation(self.redis, self.project_id)
            while self._generation < generation.number:
                with self._lock:
                    self._read_some(generation)
            with self._lock:
                due = self._due(serving)
            self._judge(due, serving, None)
            self._is_behind = False
        except (RedisError, CaptionerError) as problem:  # the next prediction begins again
            logger.warning("memory not read project=%s problem=%s", self.project_id, problem)
            with self._lock:
                self._reset()


def _weigh(
    newest: Nearest,
    places: Sequence[int],
    decoded: Mapping[str, Sequence[str]],
    style: Sequence[StyleRule],
    captioner: Captioner,
    is_whole_project: bool,
) -> Evidence:
    """Judge the corrections at these places; the decoder's captions are compared in the wording of the project."""
    restyled = [[restyle(text, style) for text in decoded[newest.rows[place].image_key]] for place in places]
    return weigh_evidence(
        newest.vectors[places],
        [words_of(newest.rows[place].caption) for place in places],
        [[words_of(text) for text in texts] for texts in restyled],
        [newest.rows[place].was_written_unseen for place in places],
        _vocabulary(captioner),
        is_whole_project=is_whole_project,
    )


def _choose(
    vector: NDArray[np.float32], nearest: Nearest, decoded: Sequence[SuggestedCaption], index: MemoryIndex, count: int
) -> list[SuggestedCaption]:
    captions = [words_of(row.caption) for row in nearest.rows]
    weights = vote_weights(vector, nearest.vectors)
    places = heaviest(weights, captions)
    candidates = [captions[place] for place in places] + [words_of(caption.text) for caption in decoded]
    chosen = []
    for choice in rank(candidates, captions, weights, index.rarity)[:count]:
        like = tuple(nearest.rows[place].name for place in choice.speakers[:LIKE])
        texts = [nearest.rows[place].caption for place in places] + [caption.text for caption in decoded]
        score = min(max(choice.score, 0.0), 1.0)
        chosen.append(SuggestedCaption(text=texts[choice.place], score=score, own_score=score, like=like))
    return chosen


def _shown_by(correction: Correction) -> Literal["memory", "decoder"] | None:
    if correction.proposed_by is None:
        return None
    return "decoder" if correction.generation is None else "memory"


def _annotation_of(name: str) -> int:
    return int(name.partition("/")[0])


def _wording(judgements: Mapping[str, Judgement]) -> set[tuple[str, str]]:
    return {(field, rule.name) for field, judgement in judgements.items() for rule in judgement.style}


def _is_unknown(states: frozenset[str], row: Row) -> bool:
    """Say whether a version that knows these corrections was trained without this one."""
    return state_of(row.name, row.updated_at) not in states


def _vocabulary(captioner: Captioner) -> frozenset[str]:
    return frozenset(word for token in captioner.tokenizer.words for word in metric_words(token))
