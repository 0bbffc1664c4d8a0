"""The backend as a web server: `captioner serve`. Other servers find the application as `backend.wsgi:app`."""

import importlib
import logging
import threading
from typing import TYPE_CHECKING

from redis import RedisError

from backend.freed_memory import keep_freed_memory, return_freed_memory
from model.errors import StoreError
from model.registry import ModelRegistry
from model.runtime.serving_bundle import begin_loading
from model.store import Store
from model.store_layout import note_store_layout
from worker.feedback.layout import open_layout
from worker.logs import set_up_logging
from worker.queue.lost_jobs import watch_beside
from worker.queue.periodic_pull import schedule_pull
from worker.redis_client import connect
from worker.settings import Settings
from worker.telemetry import start_telemetry

if TYPE_CHECKING:
    from flask import Flask

    from backend.captioning.services import CaptioningServices

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Answer requests on HOST and PORT until SIGTERM or Ctrl-C.

    Raises:
        BundleError: CAPTION_BUNDLE names no bundle.
        StoreError: MODEL_STORE is no place where files can be kept.
        LayoutError: a newer version wrote what Redis or the store holds.
    """
    ModelRegistry.open(settings.model_store, settings.caption_bundle)
    app = make_app(settings)
    from backend.web_server import serve_app

    serve_app(app, settings)


def make_app(settings: Settings) -> "Flask":
    """Prepare this process and return the application; its bundle is being loaded.

    Raises:
        LayoutError: a newer version wrote what Redis or the store holds.
    """
    set_up_logging(settings.log_format)
    keep_freed_memory()
    check_layouts(settings)
    # Before a thread may load the bundle in torch: this import hides torch for a moment.
    importlib.import_module("backend.captioning.backend_base")
    # The bundle is loaded while the rest is imported, which takes longer.
    loading = begin_loading(settings.caption_bundle)
    from backend.app import create_app
    from backend.captioning.services import EXTENSION

    app = create_app(settings, loading)
    begin_beside_requests(app.extensions[EXTENSION])
    return app


def check_layouts(settings: Settings) -> None:
    """Convert what an earlier version left in Redis, and refuse what a newer version left there or in the store.

    A Redis or a store that does not answer now is checked at its first use.

    Raises:
        LayoutError: a newer version wrote it; nothing was changed.
    """
    try:
        with connect(settings.redis_url) as redis:
            open_layout(redis)
    except RedisError as problem:
        logger.warning("layout of Redis not checked problem=%s", problem)
    try:
        note_store_layout(Store(settings.model_store))
    except StoreError as problem:
        logger.warning("layout of the model store not checked problem=%s", problem)


def begin_beside_requests(services: "CaptioningServices") -> None:
    """Start the work beside the requests: load the weights, pull what was annotated while no backend ran, and requeue
    the jobs of lost workers, even where no worker runs any more."""
    start_telemetry("captioner-backend")  # it starts a thread too
    loading = services.captioners.start_loading()
    threading.Thread(target=return_freed_memory_after, args=(loading,), name="tidy-memory", daemon=True).start()
    watch_beside(services.settings)
    threading.Thread(target=pull_missed, args=(services,), name="pull-missed", daemon=True).start()


def pull_missed(services: "CaptioningServices") -> None:
    """Schedule a pull of every project for now. If Redis does not answer, the next periodic pull does the same."""
    if services.settings.label_studio_api_key is None:
        logger.info("missed annotations are never pulled reason=LABEL_STUDIO_API_KEY is not set")
        return
    try:
        schedule_pull(services.redis, services.settings, delay_s=0)
    except RedisError as problem:
        logger.warning("pull not scheduled problem=%s", problem)


def return_freed_memory_after(thread: threading.Thread) -> None:
    thread.join()
    return_freed_memory()


def __getattr__(name: str) -> "Flask":
    """Make `app` when a server reads it, so that importing this module starts nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = make_app(Settings.from_env())
    globals()["app"] = app
    return app
