"""The memories of all projects in this process."""

import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from redis import Redis, RedisError

from backend.captioning.judgement import have_effect, read_judgements
from backend.captioning.memory import ProjectMemory, Serving
from backend.captioning.serving_versions import ServingCaptioners
from model.captioner import Captioner
from model.decoders.search import DecodingOptions
from model.errors import CaptionerError
from model.store import Store
from model.vision.features import FeatureStore
from worker.feedback.caption_changes import read_generation
from worker.feedback.score_calibration import renew_calibrations
from worker.feedback.suggestions import label_of
from worker.queue.backend_jobs import enqueue_refresh, schedule_look_alikes
from worker.settings import Settings

logger = logging.getLogger(__name__)

LOADED = 16
"""Memories that are held; that of a hundred thousand corrections takes about 120 MB."""


class Memories:
    """The memories of all projects on one bundle; safe to share between threads."""

    def __init__(self, settings: Settings, redis: Redis, store: Store, captioners: ServingCaptioners) -> None:
        self._settings, self._redis, self._store, self._captioners = settings, redis, store, captioners
        self._memories: OrderedDict[int, ProjectMemory] = OrderedDict()
        self._lock = threading.Lock()
        self._is_away = False
        self._background = ThreadPoolExecutor(1, thread_name_prefix="memory")
        self._renewing: set[int] = set()

    @property
    def options(self) -> DecodingOptions:
        """Return the options of the decoder, which the memory is compared with."""
        return DecodingOptions(beam_size=self._settings.beam_size, alternatives=self._settings.alternatives)

    def open(self, project_id: int, captioner: Captioner) -> ProjectMemory | None:
        """Return the project's memory as it is now; None where it cannot be read, which is logged once."""
        registry = self._captioners.registry
        serving = Serving(
            captioner=captioner,
            options=self.options,
            trained_states=lambda: registry.known_states(project_id, captioner.version),
        )
        try:
            memory = self._of(project_id)
            memory.prepare(serving)
        except (RedisError, CaptionerError) as problem:
            if not self._is_away:
                logger.warning("the decoder suggests alone, without memory project=%s problem=%s", project_id, problem)
            self._is_away = True
            return None
        self._is_away = False
        return memory

    def forget(self, project_id: int) -> None:
        """Drop what this process holds of a project, whose id belongs to another project now."""
        with self._lock:
            self._memories.pop(project_id, None)

    def names(self, project_id: int) -> frozenset[str]:
        """Return the names of the corrections that this process remembers of a project."""
        with self._lock:
            memory = self._memories.get(project_id)
        return memory.names if memory else frozenset()

    def label_of(self, project_id: int, version: str) -> str:
        """Return what Label Studio is told as the model version. Nothing is loaded; what changed is judged beside."""
        try:
            generation = read_generation(self._redis, project_id).number
            judgements = read_judgements(self._redis, project_id, version)
        except (RedisError, CaptionerError):
            return version
        if generation and all(judgement.generation < generation for judgement in judgements.values()):
            self.renew_beside(project_id)
        return label_of(version, generation if have_effect(judgements.values()) else None)

    def renew_beside(self, project_id: int) -> None:
        """Read and judge what changed in the background, so that the next page finds the memory as it should be."""
        with self._lock:
            if project_id in self._renewing or not self._captioners.is_loaded:
                return
            self._renewing.add(project_id)
        self._background.submit(copy_context().run, self._renew, project_id)

    def wait(self) -> None:
        """Wait until what was begun beside has ended."""
        self._background.submit(lambda: None).result()

    def _renew(self, project_id: int) -> None:
        with self._lock:
            self._renewing.discard(project_id)
        try:
            captioner = self._captioners.captioner_for(project_id)
            memory = self.open(project_id, captioner)
            if memory is not None and memory.is_open(captioner.version):
                schedule_look_alikes(self._redis, self._settings, project_id)
        except (RedisError, CaptionerError) as problem:  # the next prediction tries again
            logger.warning("memory not renewed project=%s problem=%s", project_id, problem)

    def _of(self, project_id: int) -> ProjectMemory:
        space, bundle = self._captioners.vector_space(), self._captioners.bundle()
        features = FeatureStore(self._store, bundle.encoder.fingerprint)
        with self._lock:
            memory = self._memories.get(project_id)
            if memory is None:
                memory = ProjectMemory(
                    self._redis, project_id, space, features, self._judged, self._settings.decoder_alone_share
                )
                self._memories[project_id] = memory
            self._memories.move_to_end(project_id)
            while len(self._memories) > LOADED:
                self._memories.popitem(last=False)
            return memory

    def _judged(self, project_id: int, version: str, has_turned: bool) -> None:
        """Fit scores again; when the memory began or ceased to have an effect, make all stored suggestions again."""
        if has_turned:
            enqueue_refresh(self._redis, self._settings, project_id, version)
        self._background.submit(copy_context().run, self._calibrate, project_id)

    def _calibrate(self, project_id: int) -> None:
        try:
            renew_calibrations(self._redis, self._store, project_id)
        except (RedisError, CaptionerError) as problem:  # scores keep their meaning
            logger.warning("scores not calibrated project=%s problem=%s", project_id, problem)
