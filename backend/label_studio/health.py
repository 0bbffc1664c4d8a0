"""Health of Label Studio, for callers that ask often."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from urllib.parse import urljoin

import requests

AGAIN_AFTER_S = 10.0
PATIENCE_S = 0.5
"""Longest time that a caller waits. Until a slower answer arrives, Label Studio counts as down."""
TIMEOUT_S = 5.0


class LabelStudioHealth:
    """Asks Label Studio's `/health` in a thread of its own, every AGAIN_AFTER_S; safe to share between threads."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = urljoin(url.rstrip("/") + "/", "health")
        self._clock = clock
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="label-studio-health")
        self._asking = threading.Lock()
        self._answer: Future[bool] | None = None
        self._asked_at = 0.0

    def is_up(self) -> bool:
        """Return True if Label Studio answered the last check, which was at most AGAIN_AFTER_S ago."""
        with self._asking:
            answer = self._answer
            if answer is None or (answer.done() and self._clock() - self._asked_at >= AGAIN_AFTER_S):
                answer = self._answer = self._threads.submit(self._ask)
                self._asked_at = self._clock()
        wait([answer], timeout=PATIENCE_S)
        return answer.done() and answer.result()

    def _ask(self) -> bool:
        try:
            reply = requests.get(self._address, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException:
            return False
        return reply.status_code == HTTPStatus.OK
