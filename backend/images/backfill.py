"""Features for the image of every correction, because training reads images only as features from the store."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from redis import Redis

from backend.images.fetcher import ImageFetcher
from backend.images.task_images import fetch_image
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.public_address import PublicAddress
from backend.protocol.label_config import INSIDE_TASK, compact_image_ref
from model.errors import ImageError, LabelStudioError
from model.runtime.serving_bundle import load_serving_bundle
from model.store import Store
from model.vision.encoder_spec import ImageEncoder
from model.vision.features import FeatureStore
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Correction
from worker.feedback.selection import LIMITS, SelectionLimits, select_corrections
from worker.queue.job_failure import may_come_from_items
from worker.settings import Settings

logger = logging.getLogger(__name__)

BUDGET_S = 300.0
"""A training waits for this job, and images that time out one after another must not delay it for hours."""
FIRST_DELAY_S = 300
LONGEST_DELAY_S = 24 * 3600
"""How long an image that could not be read is skipped: 5 minutes at first, twice as long after each failure."""
MENDED_BY_SETTINGS = ("absent", "refused")
"""Reasons that last until LABEL_STUDIO_API_KEY is right. They cost no time, so such an image is tried each time."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """Counts of the images that a training may use."""

    known: int
    made: int
    failed: int
    set_aside: int
    """Corrections excluded before, or excluded now because the encoder fails on their image."""
    left: int
    """Images not tried, because the time was over or they failed recently. A later job tries them."""


def complete_features(
    client: LabelStudioClient | None,
    redis: Redis,
    settings: Settings,
    project_id: int,
    on_progress: Callable[[int, int], None],
    limits: SelectionLimits = LIMITS,
) -> FeatureReport:
    """Fetch and encode the images that have no features, newest correction first.

    Only images that a training uses (worker/feedback/selection.py) or that were never read are looked up: with a
    remote store, looking up every image of a large project would take longer than the training.

    An image that cannot be read is logged and skipped. A correction is excluded when the encoder fails on its image,
    because it would fail each time.

    Args:
        client: None when no API key is set; then only images outside Label Studio can be read.
        on_progress: is called with the number of images done and the number of all images.
        limits: the number of corrections that a training uses.

    Raises:
        BundleError: the bundle cannot be loaded.
        StoreError: features cannot be written.
    """
    feedback = FeedbackStore(redis)
    excluded = feedback.excluded(project_id)
    selection = select_corrections(feedback.corrections(project_id), excluded, limits)
    corrections = sorted(
        (*selection.used, *selection.unread), key=lambda correction: correction.updated_at, reverse=True
    )
    outcomes = Counter(set_aside=len(excluded))
    if corrections:
        completion = _Completion(client, redis, settings, project_id)
        deadline = time.monotonic() + BUDGET_S
        for done, correction in enumerate(corrections, start=1):
            outcomes["left" if time.monotonic() > deadline else completion.complete(correction)] += 1
            on_progress(done, len(corrections))
    report = FeatureReport(**{field.name: outcomes[field.name] for field in fields(FeatureReport)})
    counts = (report.known, report.made, report.failed, report.left)
    logger.info("features completed project=%s known=%s made=%s failed=%s left=%s", project_id, *counts)
    return report


class _Completion:
    """Completes the features of one correction after the other."""

    def __init__(self, client: LabelStudioClient | None, redis: Redis, settings: Settings, project_id: int) -> None:
        self.client = client
        self.feedback = FeedbackStore(redis)
        self.failures = _Failures(redis, project_id)
        self.fetcher = ImageFetcher.from_settings(settings, PublicAddress(redis))
        self.encoder: ImageEncoder = load_serving_bundle(settings.caption_bundle).encoder
        self.features = FeatureStore(Store(settings.model_store), self.encoder.fingerprint)

    def complete(self, correction: Correction) -> str:
        """Return the outcome: a field of FeatureReport."""
        if correction.image_key is not None and self.features.has(correction.image_key):
            return "known"
        if not self.failures.is_due(correction.image_ref):
            return "left"
        try:
            image_ref = find_image_ref(self.client, correction)
            spec, task_id = self.encoder.spec, correction.task_id
            image = fetch_image(self.fetcher, image_ref, task_id, spec, self.features, self._encode)
            if image.is_new:
                self.features.put(image.image_key, image.features)
        except (ImageError, LabelStudioError) as problem:
            self._report_failure(correction, problem)
            return "failed"
        except Exception as problem:
            if not may_come_from_items(problem):
                raise
            self._exclude(correction, problem)
            return "set_aside"
        self.feedback.attach_image_key(correction, image.image_key)
        return "made"

    def _encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float16]:
        with np.errstate(over="ignore"):
            features = self.encoder.encode([pixels])[0].astype(np.float16)
        if not np.isfinite(features).all():
            raise ArithmeticError("its features have numbers that half precision cannot hold")
        return np.asarray(features)

    def _report_failure(self, correction: Correction, problem: ImageError | LabelStudioError) -> None:
        logger.warning(
            "correction without image project=%s task=%s annotation=%s reason=%s",
            correction.project_id,
            correction.task_id,
            correction.annotation_id,
            problem,
        )
        if isinstance(problem, ImageError) and problem.reason not in MENDED_BY_SETTINGS:
            self.failures.add(correction.image_ref)

    def _exclude(self, correction: Correction, problem: Exception) -> None:
        """Exclude the correction, unless the encoder fails on a plain grey image too; then that error is raised."""
        self._encode(self.encoder.spec.preprocessing(Image.new("RGB", (64, 64), "grey")))
        reason = f"its image cannot be encoded: {problem}"
        self.feedback.exclude(correction.project_id, correction.name, reason, automatic=True)
        logger.warning(
            "correction excluded project=%s correction=%s problem=%r", correction.project_id, correction.name, problem
        )


class _Failures:
    """Images of a project that could not be read, each with the time of the next try.

    captioner:failed-image:<project>:<SHA-256 of its address>   JSON [number of failures, Unix time of the next try]
    """

    def __init__(self, redis: Redis, project_id: int) -> None:
        self._redis = redis
        self._prefix = f"captioner:failed-image:{project_id}:"

    def is_due(self, image_ref: str) -> bool:
        _, next_try = self._read(image_ref)
        return next_try <= time.time()

    def add(self, image_ref: str) -> None:
        failures = self._read(image_ref)[0] + 1
        delay_s = retry_delay_s(failures)
        value = json.dumps([failures, time.time() + delay_s])
        # The count must outlive the delay, or the next failure would count as the first one.
        self._redis.set(self._key(image_ref), value, ex=delay_s + LONGEST_DELAY_S)

    def _read(self, image_ref: str) -> tuple[int, float]:
        failures, next_try = json.loads(self._redis.get(self._key(image_ref)) or "[0, 0]")
        return failures, next_try

    def _key(self, image_ref: str) -> str:
        return self._prefix + hashlib.sha256(image_ref.encode()).hexdigest()


def retry_delay_s(failures: int) -> int:
    """Return how long an image is skipped after this many failures, one or more."""
    return min(FIRST_DELAY_S << (failures - 1), LONGEST_DELAY_S)


def find_image_ref(client: LabelStudioClient | None, correction: Correction) -> str:
    """Return the address of the image.

    Of an image inside its task we store only the hash, so the task is read from Label Studio.
    """
    if not correction.image_ref.startswith(INSIDE_TASK) or client is None:
        return correction.image_ref
    data = client.task(correction.task_id)["data"]
    matches = (text for text in map(_as_read, _texts(data)) if compact_image_ref(text) == correction.image_ref)
    return next(matches, correction.image_ref)


def _as_read(text: str) -> str:
    """Return a text as `read_image_ref` returns it where it is the image."""
    text = text.strip()
    return "data:" + text[5:] if text[:5].lower() == "data:" else text


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in JSON, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
