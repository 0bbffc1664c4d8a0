"""Whether Label Studio answers, for whoever asks often."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from urllib.parse import urljoin

import requests

AGAIN_AFTER_S = 10.0
PATIENCE_S = 0.5
"""Nobody waits longer; an answer that takes more counts as none until it is there."""
TIMEOUT_S = 5.0


class LabelStudioHealth:
    """Asks Label Studio's `/health` now and then, beside whoever wants to know; safe to share between threads."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = urljoin(url.rstrip("/") + "/", "health")
        self._clock = clock
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="label-studio-health")
        self._asking = threading.Lock()
        self._answer: Future[bool] | None = None
        self._asked_at = 0.0

    def is_up(self) -> bool:
        """Say whether it answered when it was asked last, which is AGAIN_AFTER_S ago at most."""
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
