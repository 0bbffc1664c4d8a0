"""Images of tasks: fetched, decoded, and encoded into features where the feature store has none.

Shapes:  P image regions   D feature size   S side of the encoder's input
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.images.fetcher import ImageFetcher
from backend.metrics import Metrics
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from model.errors import ImageError, StoreError, TaskError
from model.runtime.micro_batches import MicroBatches
from model.vision.encoder_spec import EncoderSpec, ImageEncoder
from model.vision.features import FeatureStore
from model.vision.images import decode_image, image_key

logger = logging.getLogger(__name__)

FETCH_THREADS = 16
"""For each call, so that a hanging image host does not slow the calls of others."""
STORE_THREADS = 4
FETCH_BUDGET_S = 60.0
"""An image that has not arrived by then is an error of its task."""
ENCODER_BATCH = 1
"""Images encoded together: with ONNX Runtime several at once are no faster."""


class LateImageError(ImageError):
    """The time of a call was over before its machine had worked on the image; nothing is known to be wrong with it."""


@dataclass(frozen=True, kw_only=True)
class TaskImage:
    """The image that one control of one task describes."""

    control: CaptionControl
    image_ref: str
    """Address of the image as it is stored; a `data:` URL by its hash."""
    image_key: str
    features: NDArray[np.float16]
    """[P, D]"""


@dataclass(frozen=True, kw_only=True)
class FetchedImage:
    """An image that was fetched."""

    image_key: str
    features: NDArray[np.float16]
    """[P, D]"""
    is_new: bool
    """The features were not stored before."""


def fetch_image(
    fetcher: ImageFetcher,
    image_ref: str,
    task_id: int,
    spec: EncoderSpec,
    features: FeatureStore,
    encode: Callable[[NDArray[np.float32]], NDArray[np.float16]],
) -> FetchedImage:
    """Fetch an image, and encode it if it has no stored features; see `encode_fetched`.

    Args:
        fetcher: fetches it.
        image_ref: its address.
        task_id: of the task that names it.
        spec: of the encoder.
        features: stored ones.
        encode: returns the features [P, D] of a preprocessed image [3, S, S].

    Raises:
        ImageError: the image cannot be fetched or decoded.
    """
    return encode_fetched(fetcher.fetch(image_ref, task_id), spec, features, encode)


def encode_fetched(
    content: bytes,
    spec: EncoderSpec,
    features: FeatureStore,
    encode: Callable[[NDArray[np.float32]], NDArray[np.float16]],
    compute_slot: AbstractContextManager[object] | None = None,
) -> FetchedImage:
    """Encode an image that was fetched, if it has no stored features.

    Args:
        content: bytes of its file.
        spec: of the encoder.
        features: stored ones.
        encode: returns the features [P, D] of a preprocessed image [3, S, S].
        compute_slot: is held while the image is decoded.

    Raises:
        ImageError: the image cannot be decoded.
    """
    key = image_key(content)
    stored = _stored_features(features, key)
    if stored is not None:
        return FetchedImage(image_key=key, features=stored, is_new=False)
    # An image of 50 million pixels takes 200 MB while it is decoded, so only a few are decoded at a time.
    with compute_slot or nullcontext():
        pixels = spec.preprocessing(decode_fetched(content))
    return FetchedImage(image_key=key, features=encode(pixels), is_new=True)


def decode_fetched(content: bytes) -> Image.Image:
    """Decode an image that was fetched; no error quotes it, because a task may name an address of somebody else.

    Raises:
        ImageError: it cannot be decoded.
    """
    try:
        return decode_image(content)
    except ImageError as problem:
        raise ImageError(problem.without_content, problem.reason) from None


class TaskImageReader:
    """Reads the images of many tasks at once; safe to share between threads."""

    def __init__(
        self, fetcher: ImageFetcher, metrics: Metrics, batches: MicroBatches, *, encoder_batch: int = ENCODER_BATCH
    ) -> None:
        """Prepare; no thread runs yet.

        Args:
            fetcher: fetches images.
            metrics: count them.
            batches: encode them.
            encoder_batch: images encoded together.
        """
        self.fetcher = fetcher
        self._metrics = metrics
        self._batches = batches
        self._encoder_batch = encoder_batch
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._storing = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store-features")

    def read(
        self,
        tasks: Sequence[Mapping[str, Any]],
        controls: Sequence[CaptionControl],
        encoder: ImageEncoder,
        features: FeatureStore,
        budget_s: float = FETCH_BUDGET_S,
    ) -> list[list[TaskImage] | TaskError]:
        """Return for each task its images, one per control that names an image, or the error if it has none.

        An image that cannot be fetched or decoded, or that has not arrived after `budget_s`, is left out. A task is an
        error if all of its images are.
        """
        located = [_image_refs(task, controls) for task in tasks]
        task_ids = {
            ref: task["id"]
            for task, refs in zip(tasks, located, strict=True)
            if not isinstance(refs, TaskError)
            for ref in refs.values()
        }
        with self._metrics.timed_stage("fetch"):
            fetched = self._fetch_all(task_ids, encoder, features, budget_s)
        return [_task_images(task["id"], refs, fetched) for task, refs in zip(tasks, located, strict=True)]

    def _fetch_all(
        self, task_ids: Mapping[str, int], encoder: ImageEncoder, features: FeatureStore, budget_s: float
    ) -> dict[str, FetchedImage | ImageError]:
        """Fetch each image once, by its address."""
        threads = ThreadPoolExecutor(min(FETCH_THREADS, len(task_ids) or 1), thread_name_prefix="fetch")
        awaited: set[str] = set()
        running = {
            ref: threads.submit(copy_context().run, self._fetch, ref, task_id, encoder, features, awaited)
            for ref, task_id in task_ids.items()
        }
        wait(running.values(), timeout=budget_s)
        not_arrived = frozenset(awaited)
        # What still hangs ends by its own limits.
        threads.shutdown(wait=False, cancel_futures=True)
        return {ref: _outcome(future, budget_s, is_ours=ref not in not_arrived) for ref, future in running.items()}

    def _fetch(
        self, image_ref: str, task_id: int, encoder: ImageEncoder, features: FeatureStore, awaited: set[str]
    ) -> FetchedImage:
        """Fetch and encode an image. So the pixels of few images are held at a time, however many are asked for.

        Args:
            awaited: has the address while its host is asked.
        """
        awaited.add(image_ref)
        content = self.fetcher.fetch(image_ref, task_id)
        awaited.discard(image_ref)
        image = encode_fetched(content, encoder.spec, features, partial(self._encode, encoder), self._decoding)
        self._metrics.features.labels("missed" if image.is_new else "found").inc()
        if image.is_new:
            self._storing.submit(copy_context().run, _store_features, features, image.image_key, image.features)
        return image

    def _encode(self, encoder: ImageEncoder, pixels: NDArray[np.float32]) -> NDArray[np.float16]:
        """Return the features in half precision, as the feature store returns them."""

        def encode(batch: list[NDArray[np.float32]]) -> list[NDArray[np.float16]]:
            return list(encoder.encode(batch).astype(np.float16))

        with self._metrics.timed_stage("encode"):
            [encoded] = self._batches.run(("encode", encoder.fingerprint), encode, [pixels], self._encoder_batch)
        return encoded


def _image_refs(task: Mapping[str, Any], controls: Sequence[CaptionControl]) -> dict[CaptionControl, str] | TaskError:
    """Return the image address for each control that has one; an error if no control has one."""
    refs: dict[CaptionControl, str] = {}
    problem: TaskError | None = None
    for control in controls:
        try:
            refs[control] = read_image_ref(task["data"], control)
        except TaskError as missing:
            problem = problem or missing
    return refs if refs or problem is None else problem


def _task_images(
    task_id: int, refs: dict[CaptionControl, str] | TaskError, fetched: Mapping[str, FetchedImage | ImageError]
) -> list[TaskImage] | TaskError:
    """Return the images of a task that are there; an error if none is."""
    if isinstance(refs, TaskError):
        return refs
    images, problems = [], []
    for control, ref in refs.items():
        image = fetched[ref]
        if isinstance(image, ImageError):
            problems.append((control, image))
            continue
        images.append(
            TaskImage(
                control=control,
                image_ref=compact_image_ref(ref),
                image_key=image.image_key,
                features=image.features,
            )
        )
    if problems and not images:
        return problems[0][1]
    for control, problem in problems:
        logger.warning("field left without a caption task=%s field=%s reason=%s", task_id, control.from_name, problem)
    return images


def _outcome(future: "Future[FetchedImage]", budget_s: float, *, is_ours: bool) -> FetchedImage | ImageError:
    """Return what came of an image; `is_ours` if we, and not its host, held it up."""
    if not future.done() or future.cancelled():
        if is_ours:
            message = f"this server was too busy to read the image within {budget_s:.0f} s; ask again for this task"
            return LateImageError(message, "slow")
        return ImageError(f"the image did not arrive within {budget_s:.0f} s", "slow")
    try:
        return future.result()
    except ImageError as problem:
        return problem


def _stored_features(features: FeatureStore, key: str) -> NDArray[np.float16] | None:
    try:
        return features.get(key)
    except StoreError as problem:  # the features are computed again, which takes longer
        logger.warning("features not read image_key=%s problem=%s", key, problem)
        return None


def _store_features(features: FeatureStore, key: str, values: NDArray[np.float16]) -> None:
    try:
        features.put(key, values)
    except StoreError as problem:
        logger.warning("features not stored image_key=%s problem=%s", key, problem)
