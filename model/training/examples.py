"""Captioned images with their features, divided into those to learn from and those that are held out.

Shapes:  P image regions   D feature size
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from model.caption_files.read import CaptionedImage, CaptionSource, LeftOut, read_captions
from model.captioned_features import CaptionedFeatures
from model.errors import CaptionFileError, TrainingError
from model.progress import OnProgress, ignore_progress
from model.store import Store
from model.tokenizer import pieces
from model.training.optimization import reduced_precision
from model.training.processes import ALONE, Processes
from model.vision.augmentation import AS_IT_IS, Augmentation, View, is_mirrored
from model.vision.encoder import Encoder
from model.vision.features import FeatureStore
from model.vision.files import EncodedFile, encode_files

SIDES = frozenset({"left", "right", "左", "右"})


@dataclass(frozen=True, kw_only=True)
class CaptionedExample:
    """One captioned image with its features."""

    image: CaptionedImage
    image_key: str
    """SHA-256 of the image's content."""
    features: Tensor
    """[P, D], half precision."""
    views: tuple[Tensor, ...] = ()
    """Features of the image's views from number 1 on (see Augmentation), [P, D] each."""

    def captioned(self) -> list[CaptionedFeatures]:
        """Return one training example per caption. A caption that names a side gets no mirrored views."""
        upright = tuple(view for number, view in enumerate(self.views, 1) if not is_mirrored(number))
        return [
            CaptionedFeatures(
                features=self.features, caption=caption, views=upright if names_a_side(caption) else self.views
            )
            for caption in self.image.captions
        ]


class ExampleReader:
    """Reads captions files, encodes their images, and counts what cannot be used."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        features: Store | None = None,
        strict: bool = False,
        processes: Processes = ALONE,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """Choose the encoder.

        Args:
            features: store in which features are kept between runs; None computes them each time.
            strict: stop instead of leaving anything out.
            processes: share the images to encode if there is a store, in which each finds the features of the others.
        """
        self._encoder = encoder
        self._features = FeatureStore(features, encoder.fingerprint) if features else None
        self._strict = strict
        self._processes = processes
        self._on_progress = on_progress
        self.left_out = LeftOut()

    def read(
        self, train: CaptionSource, held_out: CaptionSource | None, held_out_share: int
    ) -> tuple[list[CaptionedExample], list[CaptionedExample]]:
        """Return the images to learn from and those to measure on. No image is in both, even under another name.

        Args:
            train: images to learn from.
            held_out: images to measure on. None holds out one image in `held_out_share` of `train`, by the hash of its
                content, so that the same images are held out every time.
            held_out_share: 2 or more.

        Raises:
            CaptionFileError: a captions file cannot be read, or something was left out and `strict` is set.
            TrainingError: no image is left to learn from or to measure on.
        """
        examples = self._examples(train)
        if held_out is None:
            measured = [example for example in examples if is_held_out(example.image_key, held_out_share)]
            learned = [example for example in examples if not is_held_out(example.image_key, held_out_share)]
        else:
            measured = self._examples(held_out)
            learned = self._without(examples, measured)
        if not learned or not measured:
            raise TrainingError(
                f"training needs images to learn from and images to measure on, got {len(learned)} and "
                f"{len(measured)}; {self.left_out.summary()}"
            )
        return learned, measured

    def with_views(
        self, examples: Sequence[CaptionedExample], count: int, augmentation: Augmentation
    ) -> list[CaptionedExample]:
        """Return the examples with the features of `count` views of each image; the image itself is one of them.

        Random views need no full precision, so they are encoded in bfloat16 if the device can, in half the time.
        """
        files = [example.image.file for example in examples]
        for number in range(1, count):
            with reduced_precision(True, self._processes.device):
                views = [*self._encoded(files, View(number=number, augmentation=augmentation))]
            examples = [
                replace(
                    example,
                    views=(*example.views, *([] if view.features is None else [torch.from_numpy(view.features)])),
                )
                for example, view in zip(examples, views, strict=True)
            ]
        return list(examples)

    def _examples(self, source: CaptionSource) -> list[CaptionedExample]:
        captions = read_captions(source, strict=self._strict)
        self.left_out.add_all(captions.left_out)
        images = {image.file: image for image in captions.images}
        examples = []
        for encoded in self._encoded(list(images)):
            if encoded.features is None or encoded.image_key is None:
                self._leave_out("unreadable images", f"{encoded.file.name}: {encoded.problem}")
                continue
            examples.append(
                CaptionedExample(
                    image=images[encoded.file], image_key=encoded.image_key, features=torch.from_numpy(encoded.features)
                )
            )
        return examples

    def _encoded(self, files: Sequence[Path], view: View = AS_IT_IS) -> Iterator[EncodedFile]:
        """Yield the features of each file, in order."""
        encode = partial(encode_files, self._encoder, features=self._features, view=view, on_progress=self._on_progress)
        if self._processes.count > 1 and self._features is not None:
            deque(encode(self._processes.share(files)), maxlen=0)  # only fills the store
            self._processes.wait()
        yield from encode(files)

    def _without(
        self, examples: Sequence[CaptionedExample], measured: Sequence[CaptionedExample]
    ) -> list[CaptionedExample]:
        held_out = {example.image_key for example in measured}
        for example in examples:
            if example.image_key in held_out:
                self._leave_out("training images that are held out too", example.image.file.name)
        return [example for example in examples if example.image_key not in held_out]

    def _leave_out(self, reason: str, case: str) -> None:
        self.left_out.add(reason, case)
        if self._strict:
            raise CaptionFileError(self.left_out.summary())


def names_a_side(caption: str) -> bool:
    """Return True if the caption names left or right. It is then false for the mirrored image."""
    return any(piece in SIDES for piece in pieces(caption.lower()))


def is_held_out(image_key: str, share: int) -> bool:
    """Return True for one image in `share`, by the hash of its content; it is never learned from."""
    return int(image_key[:8], 16) % share == 0
