"""Which captioner serves which project: loaded once per process, exchanged when a new version is published."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from model.bundle import Bundle, load_bundle
from model.captioner import Captioner
from model.errors import BundleError, StoreError
from model.registry import ModelRegistry, ModelVersion

logger = logging.getLogger(__name__)

POINTER_AGE_S = 1.0
"""How long a project's serving version is believed before the store is asked again."""
KEPT_CAPTIONERS = 8
"""Retrained decoders held in memory; the bundle itself is held beside them."""


class ServingCaptioners:
    """The captioners of all projects on one bundle; safe to share between threads."""

    def __init__(
        self,
        bundle_name: str,
        registry: ModelRegistry,
        *,
        kept: int = KEPT_CAPTIONERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._bundle_name = bundle_name
        self._bundle: Bundle | None = None
        self._problem: str | None = None
        self._kept = kept
        self._clock = clock
        self._versions: dict[int, tuple[str, float]] = {}
        self._captioners: OrderedDict[tuple[int, str], Captioner] = OrderedDict()
        self._loading = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the bundle is in memory, so that a prediction starts at once."""
        return self._bundle is not None

    @property
    def loading_problem(self) -> str | None:
        """Why it is not, when loading it has failed."""
        return None if self.is_loaded else self._problem

    def start_loading(self) -> threading.Thread:
        """Load the bundle beside the requests, so that the process answers from its first moment."""
        thread = threading.Thread(target=self._load_reported, name="load-bundle", daemon=True)
        thread.start()
        return thread

    def bundle(self) -> Bundle:
        """Return the bundle, loaded at the first call.

        Raises:
            BundleError: it is missing or damaged.
        """
        with self._loading:
            if self._bundle is None:
                self._bundle = self._load()
            return self._bundle

    def version_of(self, project_id: int) -> str:
        """Return the version that serves a project; reads a pointer at most once a second and never weights.

        Raises:
            StoreError: the store has not answered once since this process started.
        """
        known, read_at = self._versions.get(project_id, (None, 0.0))
        if known is not None and self._clock() - read_at < POINTER_AGE_S:
            return known
        try:
            version = self.registry.serving(project_id)
        except StoreError as problem:
            if known is None:
                raise
            logger.warning("serving version not read project=%s kept=%s problem=%s", project_id, known, problem)
            version = known
        self._versions[project_id] = (version, self._clock())
        return version

    def fits(self, version: ModelVersion) -> bool:
        """Return whether a version can serve; for one of another bundle False until ours is loaded."""
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
                self._captioners[key] = self.registry.load(project_id, version, bundle)
                logger.info("captioner loaded project=%s version=%s", project_id, version)
            self._captioners.move_to_end(key)
            while len(self._captioners) > self._kept + 1:
                self._captioners.popitem(last=False)
            return self._captioners[key]

    def _load(self) -> Bundle:
        began = self._clock()
        try:
            bundle = load_bundle(self._bundle_name)
        except BundleError as problem:
            self._problem = str(problem)
            raise
        logger.info("bundle loaded version=%s seconds=%.2f", bundle.version, self._clock() - began)
        return bundle

    def _load_reported(self) -> None:
        try:
            self.bundle()
        except BundleError as problem:  # /ready and each prediction say it again
            logger.error("bundle not loaded bundle=%s problem=%s", self._bundle_name, problem)  # noqa: TRY400
