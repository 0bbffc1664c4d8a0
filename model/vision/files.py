"""Encodes and captions image files in batches. A file that cannot be read does not affect the others.

Shapes:  P image regions   D feature size
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from model.errors import ImageError
from model.progress import OnProgress, Progress, ignore_progress
from model.vision.augmentation import AS_IT_IS, View
from model.vision.encoder_spec import ImageEncoder
from model.vision.features import FeatureStore
from model.vision.images import Preprocessing, decode_image, image_key

BATCH = 32
READERS = min(8, os.cpu_count() or 1)
"""Threads that read files; each holds a batch of pixels."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """The features of one image file, or the problem that prevented them."""

    file: Path
    image_key: str | None = None
    """SHA-256 of the content; None when the file could not be read."""
    features: NDArray[np.float16] | None = None
    """[P, D], half precision."""
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionedFile:
    """The captions of one image file, or the problem that prevented them."""

    file: Path
    captions: tuple[Caption, ...] = ()
    """Best first."""
    features: NDArray[np.float16] | None = None
    """[P, D], half precision."""
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.problem is not None:
            return {"image": str(self.file), "error": self.problem}
        captions = [{"caption": c.text, "score": c.score, "log_prob": c.log_prob} for c in self.captions]
        return {"image": str(self.file), "captions": captions}


def caption_files(
    captioner: Captioner,
    files: Sequence[Path],
    options: DecodingOptions,
    *,
    features: FeatureStore | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[CaptionedFile]:
    """Yield the captions of each file, in order, as soon as its batch is done."""
    encoded = encode_files(captioner.encoder, files, features=features)
    done = 0
    for batch in in_batches(encoded, BATCH):
        encodings = [image.features for image in batch if image.features is not None]
        captions = iter(captioner.caption(np.stack(encodings), options) if encodings else [])
        done += len(batch)
        on_progress(Progress(phase="caption images", done=done, total=len(files)))
        for image in batch:
            if image.features is None:
                yield CaptionedFile(file=image.file, problem=image.problem)
            else:
                yield CaptionedFile(file=image.file, captions=tuple(next(captions)), features=image.features)


def encode_files(
    encoder: ImageEncoder,
    files: Sequence[Path],
    *,
    features: FeatureStore | None = None,
    view: View = AS_IT_IS,
    batch_size: int = BATCH,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[EncodedFile]:
    """Yield the features of each file, in order. Features in the store are not computed again.

    Threads read the next files while the encoder computes.
    """
    done = 0
    read = partial(_read_batch, preprocessing=encoder.spec.preprocessing, features=features, view=view)
    for batch in read_ahead(read, in_batches(files, batch_size), READERS):
        yield from _encode_batch(encoder, batch, features, view)
        done += len(batch)
        on_progress(Progress(phase="encode images", done=done, total=len(files)))


def encode_images(encoder: ImageEncoder, images: Sequence[Image.Image]) -> NDArray[np.float16]:
    """Return the features of images of any size, half precision [B, P, D]."""
    return encoder.encode([encoder.spec.preprocessing(image) for image in images]).astype(np.float16)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def read_ahead(read: Callable[[S], T], items: Iterable[S], readers: int) -> Iterator[T]:
    """Yield `read(item)` of each item, in order. Threads read up to `readers` items before they are needed."""
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True, kw_only=True)
class _ReadFile:
    """A file with its features from the store, with its pixels to encode, or with the problem that prevented both."""

    encoded: EncodedFile
    pixels: NDArray[np.float32] | None = None
    """[3, S, S]"""


def _read_batch(
    files: Sequence[Path], *, preprocessing: Preprocessing, features: FeatureStore | None, view: View
) -> list[_ReadFile]:
    return [_read_file(file, preprocessing, features, view) for file in files]


def _read_file(file: Path, preprocessing: Preprocessing, features: FeatureStore | None, view: View) -> _ReadFile:
    try:
        content = file.read_bytes()
        key = image_key(content)
        stored = features.get(key + view.key) if features else None
        if stored is not None:
            return _ReadFile(encoded=EncodedFile(file=file, image_key=key, features=stored))
        pixels = preprocessing(view.of(decode_image(content), key))
    except (OSError, ImageError) as problem:
        return _ReadFile(encoded=EncodedFile(file=file, problem=str(problem)))
    return _ReadFile(encoded=EncodedFile(file=file, image_key=key), pixels=pixels)


def _encode_batch(
    encoder: ImageEncoder, files: Sequence[_ReadFile], features: FeatureStore | None, view: View
) -> Iterator[EncodedFile]:
    pixels = [file.pixels for file in files if file.pixels is not None]
    computed: Iterator[NDArray[np.float16]] = iter(encoder.encode(pixels).astype(np.float16) if pixels else ())
    for file in files:
        if file.pixels is None:
            yield file.encoded
            continue
        values = next(computed)
        if features:
            features.put(f"{file.encoded.image_key}{view.key}", values)
        yield replace(file.encoded, features=values)
