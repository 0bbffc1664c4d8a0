"""Images that are not ready in time: whose fault it is decides what is said."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.images.fetcher import ImageFetcher
from backend.images.task_images import FETCH_THREADS, LateImageError, TaskImageReader
from backend.metrics import Metrics
from backend.protocol.label_config import CaptionControl
from model.errors import TaskError
from model.runtime.micro_batches import MicroBatches
from model.store import Store
from model.vision.encoder import Encoder
from model.vision.features import FeatureStore
from tests.factories import make_encoder, make_task
from tests.image_server import png

CONTROL = CaptionControl(from_name="caption", to_name="image", image_field="captioning")
INSIDE = "data:image/png;base64," + base64.b64encode(png()).decode()


class HangingFetcher(ImageFetcher):
    """Fetches what is inside the task; every host hangs until the end of the test."""

    def __init__(self) -> None:
        super().__init__(label_studio_url="http://127.0.0.1:9", authorization=dict)
        self.is_over = threading.Event()

    def fetch(self, image_ref: str, task_id: int) -> bytes:
        if not image_ref.startswith("data:"):
            self.is_over.wait(30)
        return super().fetch(INSIDE, task_id)


@pytest.fixture
def fetcher() -> Iterator[HangingFetcher]:
    fetcher = HangingFetcher()
    yield fetcher
    fetcher.is_over.set()


def read(fetcher: HangingFetcher, image_refs: list[str], folder: Path) -> list[TaskError]:
    """Return the errors of tasks with these images, for which there is half a second."""
    encoder = make_encoder()
    tasks = [make_task(id=number, data={"captioning": ref}) for number, ref in enumerate(image_refs)]
    features = FeatureStore(Store(str(folder)), encoder.fingerprint)
    reader = TaskImageReader(fetcher, Metrics(), MicroBatches(1))
    outcomes = reader.read(tasks, [CONTROL], encoder, features, budget_s=0.5)
    return [outcome for outcome in outcomes if isinstance(outcome, TaskError)]


def test_an_image_whose_host_hangs_did_not_arrive(fetcher: HangingFetcher, tmp_path: Path) -> None:
    (error,) = read(fetcher, ["http://host/a.png", INSIDE], tmp_path)

    assert "did not arrive" in str(error)
    assert not isinstance(error, LateImageError)


def test_an_image_that_arrived_and_waits_for_the_encoder_is_late(
    fetcher: HangingFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "encode", lambda *_: fetcher.is_over.wait(30))

    (error,) = read(fetcher, [INSIDE], tmp_path)

    assert isinstance(error, LateImageError)
    assert "too busy" in str(error)


def test_an_image_that_nobody_asked_for_yet_is_late(fetcher: HangingFetcher, tmp_path: Path) -> None:
    errors = read(fetcher, [f"http://host/{number}.png" for number in range(FETCH_THREADS + 2)], tmp_path)

    assert [isinstance(error, LateImageError) for error in errors] == FETCH_THREADS * [False] + 2 * [True]
