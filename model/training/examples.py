"""Captioned images with their features: what is learned from and what is held out.

Shapes:  P image regions   D feature size
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from model.caption_files.read import CaptionedImage, CaptionSource, LeftOut, read_captions
from model.errors import CaptionFileError, TrainingError
from model.progress import OnProgress, ignore_progress
from model.tokenizer import pieces
from model.training.processes import ALONE, Processes
from model.training.teacher_forcing import CaptionedFeatures
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
    """Of its views from 1 on (see Augmentation), [P, D] each."""

    def captioned(self) -> list[CaptionedFeatures]:
        """Return one training example per caption; they share the features."""
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
        features: FeatureStore | None = None,
        strict: bool = False,
        processes: Processes = ALONE,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """Choose the encoder.

        Args:
            encoder: the network that reads the images.
            features: where features are kept between runs; None computes them each time.
            strict: stop instead of leaving anything out.
            processes: share out the images to encode, if there is a feature store in which each finds the others'.
            on_progress: told after each batch of images.
        """
        self._encoder = encoder
        self._features = features
        self._strict = strict
        self._processes = processes
        self._on_progress = on_progress
        self.left_out = LeftOut()

    def read(
        self, train: CaptionSource, held_out: CaptionSource | None, held_out_share: int
    ) -> tuple[list[CaptionedExample], list[CaptionedExample]]:
        """Return what to learn from and what to measure on; no image is in both, under whatever name.

        Args:
            train: what to learn from.
            held_out: what to measure on; None holds back one image in `held_out_share` of `train`, by the
                hash of its content, so that the same images are held out for ever.
            held_out_share: 2 or more.

        Raises:
            CaptionFileError: a captions file cannot be understood; or something is left out, and that is strict.
            TrainingError: nothing is left to learn from or to measure on.
        """
        found = self._examples(train)
        if held_out is None:
            measured = [example for example in found if is_held_out(example.image_key, held_out_share)]
            learned = [example for example in found if not is_held_out(example.image_key, held_out_share)]
        else:
            measured = self._examples(held_out)
            learned = self._without(found, measured)
        if not learned or not measured:
            raise TrainingError(
                f"training needs images to learn from and images to measure on, got {len(learned)} and "
                f"{len(measured)}; {self.left_out.summary()}"
            )
        return learned, measured

    def with_views(
        self, examples: Sequence[CaptionedExample], count: int, augmentation: Augmentation
    ) -> list[CaptionedExample]:
        """Return the examples with the features of so many views of each image, the image itself among them."""
        files = [example.image.file for example in examples]
        for number in range(1, count):
            seen = self._encoded(files, View(number=number, augmentation=augmentation))
            examples = [
                replace(example, views=(*example.views, *([] if found.features is None else [found.features])))
                for example, found in zip(examples, seen, strict=True)
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
                CaptionedExample(image=images[encoded.file], image_key=encoded.image_key, features=encoded.features)
            )
        return examples

    def _encoded(self, files: Sequence[Path], view: View = AS_IT_IS) -> Iterator[EncodedFile]:
        """Yield the features of each file, in order."""
        encode = partial(encode_files, self._encoder, features=self._features, view=view, on_progress=self._on_progress)
        if self._processes.count > 1 and self._features is not None:
            deque(encode(self._processes.share(files)), maxlen=0)  # into the feature store
            self._processes.wait()
        yield from encode(files)

    def _without(
        self, found: Sequence[CaptionedExample], measured: Sequence[CaptionedExample]
    ) -> list[CaptionedExample]:
        held_out = {example.image_key for example in measured}
        for example in found:
            if example.image_key in held_out:
                self._leave_out("training images that are held out too", example.image.file.name)
        return [example for example in found if example.image_key not in held_out]

    def _leave_out(self, reason: str, case: str) -> None:
        self.left_out.add(reason, case)
        if self._strict:
            raise CaptionFileError(self.left_out.summary())


def names_a_side(caption: str) -> bool:
    """Say whether a caption is no longer true of the mirrored image."""
    return any(piece in SIDES for piece in pieces(caption.lower()))


def is_held_out(image_key: str, share: int) -> bool:
    """Say whether an image is never learned from: one in `share`, by its content."""
    return int(image_key[:8], 16) % share == 0
