"""Services that live as long as the process and are shared by its requests.

Label Studio's protocol makes a backend object for each request, so these are kept in `app.extensions`.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass

from flask import current_app
from redis import Redis, RedisError

from backend.captioning.caption_cache import CaptionCache
from backend.captioning.memories import Memories
from backend.captioning.serving_versions import ServingCaptioners
from backend.captioning.turns import Turns
from backend.images.fetcher import ImageFetcher
from backend.images.task_images import TaskImageReader
from backend.label_studio.public_address import PublicAddress
from backend.metrics import Metrics
from backend.protocol.label_config import CaptionControl
from backend.sync.new_projects import NewProjects
from backend.sync.project_identities import ProjectIdentities
from model.registry import ModelRegistry
from model.runtime.micro_batches import MicroBatches
from model.runtime.serving_bundle import LoadedBundle
from model.store import Store
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.suggestion_forms import FIRST, begin_form, describe_form, form_number
from worker.feedback.suggestions import SuggestionLog, with_form
from worker.queue.backend_jobs import schedule_refresh
from worker.redis_client import connect
from worker.settings import Settings

logger = logging.getLogger(__name__)

EXTENSION = "captioner"


@dataclass(frozen=True, kw_only=True)
class CaptioningServices:
    """Services shared by the requests of one process; safe to use from every thread."""

    settings: Settings
    redis: Redis
    store: Store
    captioners: ServingCaptioners
    memories: Memories
    task_images: TaskImageReader
    new_projects: NewProjects
    projects: ProjectIdentities
    public_address: PublicAddress
    metrics: Metrics
    turns: Turns
    batches: MicroBatches
    """Computes what several requests ask for together."""
    captions: CaptionCache

    def label_of(self, project_id: int, form: int) -> str:
        """Return what Label Studio is told as the model version of a project; no weights are loaded.

        Args:
            project_id: Label Studio's.
            form: number of the suggestions' form.

        Raises:
            StoreError: the store has not answered since this process started.
        """
        return with_form(self.memories.label_of(project_id, self.captioners.version_of(project_id)), form)

    def form_of(self, project_id: int, controls: Sequence[CaptionControl]) -> int:
        """Return the number of the form that suggestions for these fields have now."""
        form = describe_form([asdict(control) for control in controls], self.settings)
        try:
            return form_number(self.redis, project_id, form)
        except RedisError:
            return FIRST

    def begin_form(self, project_id: int, form: int) -> None:
        """Note the form that is in use; where another one was before, stored suggestions are written again soon."""
        with suppress(RedisError):
            if begin_form(self.redis, project_id, form):
                version = self.captioners.version_of(project_id)
                job_id = schedule_refresh(self.redis, self.settings, project_id, version)
                logger.info("suggestions have another form project=%s form=%s job=%s", project_id, form, job_id)

    @property
    def feedback(self) -> FeedbackStore:
        return FeedbackStore(self.redis)

    @property
    def suggestions(self) -> SuggestionLog:
        return SuggestionLog(self.redis)


def make_services(settings: Settings, loading: "Future[LoadedBundle] | None" = None) -> CaptioningServices:
    """Return the services of this process; nothing is connected yet.

    Args:
        settings: of the process.
        loading: the bundle, if it is being loaded already.

    Raises:
        BundleError: CAPTION_BUNDLE names no bundle.
        StoreError: MODEL_STORE is no place where files can be kept.
    """
    metrics = Metrics()
    batches = MicroBatches()
    redis = connect(settings.redis_url)
    registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
    captioners = ServingCaptioners(settings.caption_bundle, registry, loading=loading)
    store = Store(settings.model_store)
    public_address = PublicAddress(redis)
    memories = Memories(settings, redis, store, captioners)

    def forget(project_id: int) -> None:
        captioners.forget(project_id)
        memories.forget(project_id)

    return CaptioningServices(
        settings=settings,
        redis=redis,
        store=store,
        captioners=captioners,
        memories=memories,
        task_images=TaskImageReader(ImageFetcher.from_settings(settings, public_address), metrics, batches),
        new_projects=NewProjects(settings, redis),
        projects=ProjectIdentities(redis, store, forget),
        public_address=public_address,
        metrics=metrics,
        turns=Turns(),
        batches=batches,
        captions=CaptionCache(),
    )


def current_services() -> CaptioningServices:
    """Return the services of the application that answers this request."""
    shared: CaptioningServices = current_app.extensions[EXTENSION]
    return shared
