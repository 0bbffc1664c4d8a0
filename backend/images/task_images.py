"""From tasks to what the encoder sees in their images.

Shapes:  P image regions   D feature size   S side of the encoder's input
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backend.images.fetcher import ImageFetcher
from backend.metrics import Metrics
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from model.errors import ImageError, StoreError, TaskError
from model.vision.encoder import Encoder
from model.vision.features import FeatureStore
from model.vision.images import decode_image, image_key

logger = logging.getLogger(__name__)

FETCH_THREADS = 16
FETCH_BUDGET_S = 60.0
"""Label Studio waits 100 s for all tasks of one call; what is not here by now is answered without."""
ENCODER_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class TaskImage:
    """The image that one control of one task asks a caption for."""

    control: CaptionControl
    image_ref: str
    """As it is stored; a `data:` URL by its hash."""
    image_key: str
    features: Tensor
    """[P, D]"""


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """One image, read; `pixels` only where the feature store did not know it."""

    image_key: str
    features: Tensor | None
    pixels: Tensor | None


class TaskImageReader:
    """Reads the images of many tasks at once; safe to share between threads."""

    def __init__(self, fetcher: ImageFetcher, metrics: Metrics, compute_slots: threading.Semaphore) -> None:
        """Name what is shared.

        Args:
            compute_slots: one for each thread that may compute at the same time.
        """
        self.fetcher = fetcher
        self._metrics = metrics
        self._compute_slots = compute_slots
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")

    def read(
        self,
        tasks: Sequence[Mapping[str, Any]],
        controls: Sequence[CaptionControl],
        encoder: Encoder,
        features: FeatureStore,
    ) -> list[list[TaskImage] | TaskError]:
        """Return for each task its images, one per control whose field it has; at least one, or the reason."""
        located = [_locate(task, controls) for task in tasks]
        wanted = {ref: task["id"] for task, refs in zip(tasks, located, strict=True) for ref in _found(refs).values()}
        with self._metrics.timed_stage("fetch"):
            fetched = self._fetch_all(wanted, encoder, features)
        with self._metrics.timed_stage("encode"):
            seen = self._encode_missing(fetched.values(), encoder, features)
        return [_task_images(refs, fetched, seen) for refs in located]

    def _fetch_all(
        self, wanted: Mapping[str, int], encoder: Encoder, features: FeatureStore
    ) -> dict[str, _Fetched | ImageError]:
        """Fetch each reference once; returns what was read or why not."""
        running = {
            ref: self._threads.submit(copy_context().run, self._fetch, ref, task_id, encoder, features)
            for ref, task_id in wanted.items()
        }
        wait(running.values(), timeout=FETCH_BUDGET_S)
        return {ref: _outcome(future) for ref, future in running.items()}

    def _fetch(self, image_ref: str, task_id: int, encoder: Encoder, features: FeatureStore) -> _Fetched:
        content = self.fetcher.fetch(image_ref, task_id)
        key = image_key(content)
        known = _recall(features, key)
        self._metrics.features.labels("missed" if known is None else "found").inc()
        if known is not None:
            return _Fetched(image_key=key, features=known, pixels=None)
        # An image of 50 million pixels takes 200 MB while it is decoded, so only few are at a time.
        with self._compute_slots:
            return _Fetched(image_key=key, features=None, pixels=encoder.spec.preprocessing(decode_image(content)))

    def _encode_missing(
        self, fetched: Iterable[_Fetched | ImageError], encoder: Encoder, features: FeatureStore
    ) -> dict[str, Tensor]:
        """Return the features [P, D] of all images by key; what had to be computed is kept in the store."""
        images = {image.image_key: image for image in fetched if isinstance(image, _Fetched)}
        seen = {key: image.features for key, image in images.items() if image.features is not None}
        missing = {key: image.pixels for key, image in images.items() if image.pixels is not None}
        keys = list(missing)
        for start in range(0, len(keys), ENCODER_BATCH):
            batch = keys[start : start + ENCODER_BATCH]
            with self._compute_slots:
                computed = encode(encoder, [missing[key] for key in batch])
            seen |= dict(zip(batch, computed, strict=True))
        for key in keys:
            self._threads.submit(copy_context().run, _remember, features, key, seen[key])
        return seen


@torch.inference_mode()
def encode(encoder: Encoder, pixels: Sequence[Tensor]) -> Tensor:
    """Return half-precision features [B, P, D] of prepared images [3, S, S]: what the feature store would return."""
    batch = torch.stack(list(pixels)).contiguous(memory_format=torch.channels_last)
    found: Tensor = encoder(batch)
    return found.half()


def _locate(task: Mapping[str, Any], controls: Sequence[CaptionControl]) -> dict[CaptionControl, str] | TaskError:
    """Return where the images of a task are; a task may leave the fields of some controls empty, not of all."""
    refs: dict[CaptionControl, str] = {}
    problem: TaskError | None = None
    for control in controls:
        try:
            refs[control] = read_image_ref(task["data"], control)
        except TaskError as missing:
            problem = problem or missing
    return refs if refs or problem is None else problem


def _found(refs: dict[CaptionControl, str] | TaskError) -> dict[CaptionControl, str]:
    return {} if isinstance(refs, TaskError) else refs


def _task_images(
    refs: dict[CaptionControl, str] | TaskError,
    fetched: Mapping[str, _Fetched | ImageError],
    seen: Mapping[str, Tensor],
) -> list[TaskImage] | TaskError:
    if isinstance(refs, TaskError):
        return refs
    images = []
    for control, ref in refs.items():
        image = fetched[ref]
        if isinstance(image, ImageError):
            return image
        key = image.image_key
        images.append(TaskImage(control=control, image_ref=compact_image_ref(ref), image_key=key, features=seen[key]))
    return images


def _outcome(future: "Future[_Fetched]") -> _Fetched | ImageError:
    if not future.done():
        future.cancel()
        return ImageError(f"the image was not there after {FETCH_BUDGET_S:g} s", "slow")
    try:
        return future.result()
    except ImageError as problem:
        return problem


def _recall(features: FeatureStore, key: str) -> Tensor | None:
    try:
        return features.get(key)
    except StoreError as problem:  # slower, not wrong: the features are computed again
        logger.warning("features not read image_key=%s problem=%s", key, problem)
        return None


def _remember(features: FeatureStore, key: str, values: Tensor) -> None:
    try:
        features.put(key, values)
    except StoreError as problem:
        logger.warning("features not kept image_key=%s problem=%s", key, problem)
