"""The backend as a web server: `captioner serve`, or `gunicorn backend.wsgi:app`."""

import logging
import sys
from typing import Any

import torch
from flask import Flask
from gunicorn.app.base import BaseApplication

from backend.app import create_app
from worker.settings import Settings

THREADS = 8


def serve(settings: Settings) -> None:
    """Answer requests on HOST and PORT until SIGTERM or Ctrl-C.

    Raises:
        BundleError: CAPTION_BUNDLE names no bundle.
        StoreError: MODEL_STORE is no place files can be kept.
    """
    _Server(settings).run()


def server_options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's settings: one process, so that the model is in memory once."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": "gthread",
        "workers": 1,
        "threads": THREADS,
        # A heartbeat of the process, not a limit of requests: Label Studio waits 100 s for a prediction.
        "timeout": 120,
        "graceful_timeout": 10,
        "keepalive": 5,
        "control_socket_disable": True,
    }


def make_app(settings: Settings) -> Flask:
    """Return the application in a process made ready for it."""
    start_logging()
    # One caption is faster on one thread than on two, and requests run beside each other anyway.
    torch.set_num_threads(1)
    return create_app(settings)


def start_logging() -> None:
    """Write one line per finished unit of work to standard error; of others' steps only what is wrong."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    logging.getLogger("rq").setLevel(logging.WARNING)


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with our settings and without its command line."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in server_options(self._settings).items():
            if name in self.cfg.settings:  # older gunicorns lack some
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return make_app(self._settings)


def __getattr__(name: str) -> Flask:
    """Make `app` when a server asks for it, so that importing this module starts nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = make_app(Settings.from_env())
    globals()["app"] = app
    return app
