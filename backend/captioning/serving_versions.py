"""The captioner that serves each project: loaded once per process, replaced when another version serves."""

import importlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from model.captioner import Captioner
from model.errors import BundleError, ModelVersionError, StoreError
from model.memory.vectors import VectorSpace
from model.registry import ModelRegistry, ModelVersion
from model.runtime.serving_bundle import LoadedBundle, load_serving_bundle

logger = logging.getLogger(__name__)

POINTER_AGE_S = 1.0
"""How long the serving version of a project is remembered before it is read from the store again."""
LOADED_CAPTIONERS = 8
"""Retrained captioners held in memory; the captioner of the bundle is held beside them."""


class ServingCaptioners:
    """The captioners of all projects on one bundle; safe to share between threads."""

    def __init__(
        self,
        bundle_name: str,
        registry: ModelRegistry,
        *,
        loaded: int = LOADED_CAPTIONERS,
        pointer_age_s: float = POINTER_AGE_S,
        clock: Callable[[], float] = time.monotonic,
        loading: "Future[LoadedBundle] | None" = None,
    ) -> None:
        self.registry = registry
        self._bundle_name = bundle_name
        self._bundle: LoadedBundle | None = None
        self._problem: str | None = None
        self._begun = loading
        self._loaded = loaded
        self.pointer_age_s = pointer_age_s
        self._clock = clock
        self._versions: dict[int, tuple[str, float]] = {}
        self._captioners: OrderedDict[tuple[int, str], Captioner] = OrderedDict()
        self._loading = threading.Lock()
        self._measuring = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """True once the bundle is in memory, so that a prediction starts at once."""
        return self._bundle is not None

    @property
    def loading_problem(self) -> str | None:
        """The reason, if loading the bundle has failed."""
        return None if self.is_loaded else self._problem

    @property
    def runtime(self) -> str | None:
        """What computes captions; None before the bundle is loaded."""
        return None if self._bundle is None else self._bundle.runtime

    def start_loading(self) -> threading.Thread:
        """Load the bundle in a thread, so that the process answers requests from its start."""
        thread = threading.Thread(target=self._load_and_log, name="load-bundle", daemon=True)
        thread.start()
        return thread

    def bundle(self) -> LoadedBundle:
        """Return the bundle, loaded at the first call.

        Raises:
            BundleError: it is missing or damaged.
        """
        with self._loading:
            if self._bundle is None:
                self._bundle = self._load()
            return self._bundle

    def vector_space(self) -> VectorSpace:
        """Return the vectors by which the bundle's images are compared; raises what `bundle` raises."""
        bundle = self.bundle()
        with self._measuring:
            return bundle.space

    def version_of(self, project_id: int) -> str:
        """Return the version that serves a project. It reads a pointer at most once a second, and never loads weights.

        Raises:
            StoreError: the store has not answered since this process started.
        """
        remembered, read_at = self._versions.get(project_id, (None, 0.0))
        if remembered is not None and self._clock() - read_at < self.pointer_age_s:
            return remembered
        try:
            version = self.registry.serving(project_id)
        except StoreError as problem:
            if remembered is None:
                raise
            logger.warning("serving version not read project=%s used=%s problem=%s", project_id, remembered, problem)
            version = remembered
        self._versions[project_id] = (version, self._clock())
        return version

    def forget(self, project_id: int) -> None:
        """Let the next question for the serving version of a project be answered by the store."""
        self._versions.pop(project_id, None)

    def fits(self, version: ModelVersion) -> bool:
        """Return True if a version can serve. Our bundle must be loaded for a version of another bundle."""
        if version.bundle == self.registry.base_version:
            return True
        return self._bundle is not None and version.encoder == self._bundle.encoder.fingerprint

    def captioner_for(self, project_id: int) -> Captioner:
        """Return the captioner of the version that `version_of` names.

        Raises:
            ModelVersionError: the version is damaged or made for another bundle.
            StoreError: the store cannot be read.
        """
        version = self.version_of(project_id)
        bundle = self.bundle()
        # All projects without a version of their own share the bundle's captioner.
        key = (0, version) if version == bundle.version else (project_id, version)
        with self._loading:
            if key not in self._captioners:
                try:
                    self._captioners[key] = self.registry.load(project_id, version, bundle)
                except ModelVersionError as problem:
                    logger.warning("version not loaded project=%s version=%s problem=%s", project_id, version, problem)
                    self.registry.distrust(project_id, version)
                    self._versions.pop(project_id, None)
                    version = self.version_of(project_id)
                    key = (0, version) if version == bundle.version else (project_id, version)
                    self._captioners[key] = self.registry.load(project_id, version, bundle)
                logger.info("captioner loaded project=%s version=%s", project_id, version)
            self._captioners.move_to_end(key)
            while len(self._captioners) > self._loaded + 1:
                self._captioners.popitem(last=False)
            return self._captioners[key]

    def _load(self) -> LoadedBundle:
        began = self._clock()
        try:
            bundle = self._begun.result() if self._begun else load_serving_bundle(self._bundle_name)
        except BundleError as problem:
            self._problem = str(problem)
            raise
        outcome = (bundle.version, self._clock() - began, bundle.runtime)
        logger.info("bundle loaded version=%s seconds=%.2f runtime=%s", *outcome)
        return bundle

    def _load_and_log(self) -> None:
        try:
            self.vector_space()
            # What is slow to import, and is not needed to be ready.
            importlib.import_module("label_studio_sdk.label_interface")
        except BundleError as problem:  # /ready and each prediction report it too
            logger.error("bundle not loaded bundle=%s problem=%s", self._bundle_name, problem)  # noqa: TRY400
