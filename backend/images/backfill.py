"""See to it that every correction's image has its features in the store, because training reads nothing else."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from redis import Redis
from torch import Tensor

from backend.images.fetcher import ImageFetcher
from backend.images.task_images import encode
from backend.label_studio.client import LabelStudioClient
from backend.protocol.label_config import INSIDE_TASK, compact_image_ref
from model.bundle import load_bundle
from model.errors import ImageError, LabelStudioError
from model.store import Store
from model.vision.encoder import Encoder
from model.vision.features import FeatureStore
from model.vision.images import decode_image, image_key
from worker.feedback.corrections import Correction, CorrectionInbox
from worker.feedback.selection import select_corrections
from worker.queue.job_failure import may_come_from_items
from worker.settings import Settings

logger = logging.getLogger(__name__)

BUDGET_S = 300.0
"""A training waits for this; images that time out one after the other must not keep it for hours."""
FIRST_DELAY_S = 300
LONGEST_DELAY_S = 24 * 3600
"""How long an image that could not be had is passed over: twice as long each time it fails again."""
MENDED_BY_SETTINGS = ("absent", "refused")
"""Why an image cannot be had until LABEL_STUDIO_API_KEY is right; said at once, so it may be tried each time."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """What became of the images that a training may use."""

    known: int
    made: int
    failed: int
    set_aside: int
    """Before, or now because the encoder cannot make anything of the image."""
    left: int
    """Not looked at, because the time was up or the image failed not long ago; a later job goes on."""


def complete_features(
    client: LabelStudioClient | None,
    redis: Redis,
    settings: Settings,
    project_id: int,
    on_progress: Callable[[int, int], None],
) -> FeatureReport:
    """Fetch and encode the images that have no features, newest first; one that cannot be had is logged and left out.

    Seen to are those that a training uses (worker/feedback/selection.py) or that nobody has read yet: with a store far
    away a look at each image of a large project would take longer than the training.

    One that the encoder fails on is set aside: it would be so each time. As images are seen to one by one, there is
    nothing to search for; only whether the encoder does its work otherwise is tried.

    Args:
        client: None when no API key is set; then only images outside Label Studio can be had.
        on_progress: told how many of how many images are seen to.

    Raises:
        BundleError: the bundle cannot be loaded.
        StoreError: features cannot be read or written.
    """
    inbox = CorrectionInbox(redis)
    set_aside = inbox.set_aside_names(project_id)
    selection = select_corrections(inbox.corrections(project_id), set_aside)
    wanted = sorted((*selection.used, *selection.unread), key=lambda one: one.updated_at, reverse=True)
    if not wanted:
        return FeatureReport(known=0, made=0, failed=0, set_aside=len(set_aside), left=0)
    encoder = load_bundle(settings.caption_bundle).encoder
    features = FeatureStore(Store(settings.model_store), encoder.fingerprint)
    fetcher, failures = ImageFetcher.from_settings(settings), _Failures(redis, project_id)
    completion = _Completion(inbox, encoder, features, client, fetcher, failures)
    deadline, outcomes = time.monotonic() + BUDGET_S, Counter(set_aside=len(set_aside))
    for done, correction in enumerate(wanted, start=1):
        outcomes["left" if time.monotonic() > deadline else completion.see_to(correction)] += 1
        on_progress(done, len(wanted))
    return FeatureReport(**{field.name: outcomes[field.name] for field in fields(FeatureReport)})


class _Completion:
    """Sees to the features of one correction after the other."""

    def __init__(
        self,
        inbox: CorrectionInbox,
        encoder: Encoder,
        features: FeatureStore,
        client: LabelStudioClient | None,
        fetcher: ImageFetcher,
        failures: "_Failures",
    ) -> None:
        self.inbox = inbox
        self.encoder = encoder
        self.features = features
        self.client = client
        self.fetcher = fetcher
        self.failures = failures

    def see_to(self, correction: Correction) -> str:
        if correction.image_key is not None and self.features.has(correction.image_key):
            return "known"
        if not self.failures.is_due(correction.image_ref):
            return "left"
        try:
            content = self.fetcher.fetch(find_image_ref(self.client, correction), correction.task_id)
            key = image_key(content)
            if self.features.get(key) is None:
                self.features.put(key, self._encoded(decode_image(content)))
        except (ImageError, LabelStudioError) as problem:
            logger.warning(
                "correction without image project=%s task=%s annotation=%s reason=%s",
                correction.project_id,
                correction.task_id,
                correction.annotation_id,
                problem,
            )
            if isinstance(problem, ImageError) and problem.reason not in MENDED_BY_SETTINGS:
                self.failures.add(correction.image_ref)
            return "failed"
        except Exception as problem:
            if not may_come_from_items(problem):
                raise
            self._encoded(Image.new("RGB", (64, 64), "grey"))  # fails too if it is not for this image
            reason = f"its image cannot be encoded: {problem}"
            self.inbox.set_aside(correction.project_id, correction.name, reason, by_job=True)
            logger.warning(
                "correction set aside project=%s correction=%s problem=%r",
                correction.project_id,
                correction.name,
                problem,
            )
            return "set_aside"
        self.inbox.attach_image_key(correction, key)
        return "made"

    def _encoded(self, image: Image.Image) -> Tensor:
        features = encode(self.encoder, [self.encoder.spec.preprocessing(image)])[0]
        if not features.isfinite().all():
            raise ArithmeticError("its features have numbers that half precision cannot hold")
        return features


class _Failures:
    """The images of a project that could not be had, each until it is worth another look.

    captioner:failed-image:<project>:<SHA-256 of its address>   JSON [how often it failed, when to try again]
    """

    def __init__(self, redis: Redis, project_id: int) -> None:
        self._redis = redis
        self._prefix = f"captioner:failed-image:{project_id}:"

    def is_due(self, image_ref: str) -> bool:
        _, again_at = self._read(image_ref)
        return again_at <= time.time()

    def add(self, image_ref: str) -> None:
        count = self._read(image_ref)[0] + 1
        delay_s = retry_delay_s(count)
        value = json.dumps([count, time.time() + delay_s])
        # It is kept longer than it is passed over, or the next failure would be the first one again.
        self._redis.set(self._key(image_ref), value, ex=delay_s + LONGEST_DELAY_S)

    def _read(self, image_ref: str) -> tuple[int, float]:
        count, again_at = json.loads(self._redis.get(self._key(image_ref)) or "[0, 0]")
        return count, again_at

    def _key(self, image_ref: str) -> str:
        return self._prefix + hashlib.sha256(image_ref.encode()).hexdigest()


def retry_delay_s(failures: int) -> int:
    """Return how long an image is passed over that has failed so often, once or more."""
    return min(FIRST_DELAY_S << (failures - 1), LONGEST_DELAY_S)


def find_image_ref(client: LabelStudioClient | None, correction: Correction) -> str:
    """Return where the image is; one inside its task is known to us by its hash only, so the task is asked."""
    if not correction.image_ref.startswith(INSIDE_TASK) or client is None:
        return correction.image_ref
    data = client.task(correction.task_id)["data"]
    found = (text for text in _texts(data) if compact_image_ref(text) == correction.image_ref)
    return next(found, correction.image_ref)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in JSON, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
