"""The Redis, store, settings and bundle that a backend and its workers share, for tests that start real workers."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from redis import Redis
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from model.bundle import Bundle
from model.registry import ModelRegistry
from model.store import Store
from model.vision.features import FeatureStore
from tests.factories import environment_of, make_correction, make_image, store_annotation
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Correction
from worker.settings import Settings

DEADLINE_S = 120
"""A test gives up waiting after this time. On an idle machine nothing here takes a tenth of it."""
COLORS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")


@dataclass
class Workplace:
    """The files, Redis and settings that the backend shares with its workers."""

    redis: Redis
    settings: Settings
    bundle: Bundle
    log_folder: Path

    @property
    def feedback(self) -> FeedbackStore:
        return FeedbackStore(self.redis)

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(Store(self.settings.model_store), self.bundle.version)

    @property
    def features(self) -> FeatureStore:
        return FeatureStore(Store(self.settings.model_store), self.bundle.encoder.fingerprint)

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the settings as environment variables of a worker process."""
        return environment_of(self.settings) | changes

    def correct(self, numbers: range, project_id: int = 1, **changes: Any) -> list[Correction]:
        """Store a correction of each picture, and its features, as webhook and pull do."""
        corrections = [make_pictured_correction(number, project_id, **changes) for number in numbers]
        for correction in corrections:
            self.store_features(correction)
            store_annotation(self.redis, correction)
        return corrections

    def store_features(self, correction: Correction) -> None:
        picture = self.picture(correction.annotation_id)
        self.features.put(str(correction.image_key), self.bundle.captioner().encode([picture])[0])

    @staticmethod
    def picture(number: int) -> Image.Image:
        return make_image(COLORS[number % len(COLORS)], size=(40 + number, 40))

    def result(self, job_id: str) -> Result:
        """Wait until a job ends, well or badly, with a blocking read of its result stream."""
        job = self.job(job_id)
        result = job.latest_result(timeout=DEADLINE_S)
        assert result is not None, f"job {job_id} is {job.get_status()} after {DEADLINE_S} s; logs in {self.log_folder}"
        return result

    @staticmethod
    def wait_until(holds: Callable[[], object]) -> None:
        """Poll until a condition holds that no event announces, such as the progress of a job."""
        give_up_at = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < give_up_at, f"the condition does not hold after {DEADLINE_S} s"
            threading.Event().wait(0.02)

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.redis, serializer=JSONSerializer)


def make_pictured_correction(number: int, project_id: int = 1, **changes: Any) -> Correction:
    """Make a correction of picture `number`, which has an image of its own. A higher number is a later correction."""
    values = {
        "project_id": project_id,
        "annotation_id": number,
        "image_key": hashlib.sha256(f"picture {number} of project {project_id}".encode()).hexdigest(),
        "caption": f"two {COLORS[number % 3]} circle left of the square",
        "updated_at": (datetime(2025, 1, 31, tzinfo=UTC) + timedelta(seconds=number)).isoformat(),
    }
    return make_correction(**values | changes)


class Hold:
    """Keeps a job of `tests.integration.held_jobs` running until it is released."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(DEADLINE_S)
        self.port: int = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []

    def wait_until_running(self) -> None:
        connection, _ = self._server.accept()
        self._connections.append(connection)

    def wait_until_gone(self, job: int) -> None:
        """Wait until the process of job number `job`, which nobody released, ends before its time limit."""
        self._connections[job].settimeout(DEADLINE_S / 4)
        assert self._connections[job].recv(1) == b""

    def release(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        self.release()
        self._server.close()
