"""The web server: waitress receives requests in one thread and hands whole ones to others, so slow clients cost none.

Predictions have threads of their own. What Label Studio asks for every page, and webhooks, which have one second, never
wait behind them.
"""

import logging
import resource
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, wasyncore
from waitress.task import ThreadedTaskDispatcher

from backend.error_answers import MAX_BODY_BYTES
from model.errors import SettingsError
from worker.settings import Settings

logger = logging.getLogger(__name__)

THREADS = 8
"""For all requests but predictions."""
PREDICTION_THREADS = 96
"""Most of them wait for their turn, or refuse (backend/captioning/turns.py)."""
PREDICT = "/predict"
RECEIVE_S = 60
"""A request must have arrived whole after this time, however slowly its client sends it."""
IDLE_S = 30
"""A connection without any sign of life is closed after this time."""
CONNECTIONS = 4000
GRACE_S = 10.0
"""Time that running requests get when the process is asked to end."""


def serve_app(app: Callable[..., Any], settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT; running ones get a moment to end."""
    allow_connections()
    server = WebServer(app, settings)
    logger.info("listening host=%s port=%s", settings.host, server.effective_port)
    server.run_until_stopped()


def allow_connections() -> None:
    """Raise this process' limit of open files, which counts connections too, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Dispatcher:
    """Hands requests to threads: predictions to their own."""

    def __init__(self) -> None:
        self._others, self._predictions = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        self._others.set_thread_count(THREADS)
        self._predictions.set_thread_count(PREDICTION_THREADS)
        for threads in (self._others, self._predictions):
            threads.queue_logger.setLevel(logging.ERROR)  # a queue is nothing to warn of

    def add_task(self, channel: HTTPChannel) -> None:
        # A proxy may leave its own path before ours.
        is_prediction = channel.requests[0].path.endswith(PREDICT)
        (self._predictions if is_prediction else self._others).add_task(channel)

    def shutdown(self) -> None:
        for threads in (self._others, self._predictions):
            threads.shutdown(timeout=0)


class WebServer(TcpWSGIServer):  # type: ignore[misc]  # waitress has no types
    """waitress with our limits."""

    def __init__(self, app: Callable[..., Any], settings: Settings) -> None:
        adjustments = Adjustments(
            listen=f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}",
            ident=None,
            connection_limit=CONNECTIONS,
            backlog=1024,
            asyncore_use_poll=True,
            cleanup_interval=5,
            channel_timeout=IDLE_S,
            # What is a little larger gets our own answer.
            max_request_body_size=2 * MAX_BODY_BYTES,
            max_request_header_size=32 * 1024,
        )
        self._receiving: dict[HTTPChannel, tuple[object, float]] = {}
        """Connections whose request has arrived in part, with that request and when it was first seen."""
        try:
            super().__init__(app, dispatcher=Dispatcher(), adj=adjustments)
        except OSError as cause:
            raise SettingsError(
                f"cannot listen at {settings.host}, port {settings.port}: {cause.strerror}; "
                "set HOST and PORT to a free address"
            ) from cause

    def maintenance(self, now: float) -> None:
        """Close connections that are idle, and those whose request takes too long to arrive."""
        super().maintenance(now)
        before, self._receiving = self._receiving, {}
        for channel in list(self.active_channels.values()):
            request = channel.request
            if request is None:
                continue
            earlier, since = before.get(channel, (None, now))
            since = since if earlier is request else now
            self._receiving[channel] = request, since
            if now - since > RECEIVE_S:
                channel.will_close = True

    def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT, then let running requests end."""
        stop = threading.Event()

        def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
            stop.set()
            self.pull_trigger()

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, ask_to_stop)
        while not stop.is_set():
            self.loop_once()
        logger.info("stopping running=%s", self._running)
        self.accepting = False
        self.socket.close()
        give_up_at = time.monotonic() + GRACE_S
        while self._running and time.monotonic() < give_up_at:
            self.loop_once()
        self.task_dispatcher.shutdown()
        wasyncore.close_all(self._map)

    @property
    def _running(self) -> int:
        """Number of connections with a request or an answer that is not finished."""
        return sum(bool(channel.requests or channel.total_outbufs_len) for channel in self.active_channels.values())

    def loop_once(self) -> None:
        wasyncore.loop(timeout=1.0, map=self._map, use_poll=True, count=1)
