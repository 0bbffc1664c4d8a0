"""Encodes and captions image files in batches. A file that cannot be read does not affect the others.

Shapes:  P image regions   D feature size
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from model.vision.images import decode_image, image_key

BATCH = 32

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
    """Yield the features of each file, in order. Features in the store are not computed again."""
    done = 0
    for batch in in_batches(files, batch_size):
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


def _encode_batch(
    encoder: ImageEncoder, files: Sequence[Path], features: FeatureStore | None, view: View
) -> Iterator[EncodedFile]:
    encoded: dict[Path, EncodedFile] = {}
    pictures: dict[Path, tuple[str, Image.Image]] = {}
    for file in files:
        try:
            content = file.read_bytes()
            key = image_key(content)
            stored = features.get(key + view.key) if features else None
            if stored is None:
                pictures[file] = key, view.of(decode_image(content), key)
            else:
                encoded[file] = EncodedFile(file=file, image_key=key, features=stored)
        except (OSError, ImageError) as problem:
            encoded[file] = EncodedFile(file=file, problem=str(problem))
    if pictures:
        computed = encode_images(encoder, [picture for _, picture in pictures.values()])
        for (file, (key, _)), values in zip(pictures.items(), computed, strict=True):
            if features:
                features.put(key + view.key, values)
            encoded[file] = EncodedFile(file=file, image_key=key, features=values)
    yield from (encoded[file] for file in files)
