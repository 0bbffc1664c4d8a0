"""The photos of the bundle `photos`: Flickr8k and a part of COCO, with their captions, as one source for each split.

Flickr8k's lists decide its split. Of the COCO photos with three captions or more the hash of the name decides: 400 are
for testing, and 100 choose the best epoch. The rest is learned from. Each split is a file of JSON lines with `image`
and `captions`; the image is named by its path below the directory that holds both sets.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from model.caption_files.read import CaptionedImage, CaptionSource, read_captions

Split = Literal["train", "dev", "test"]

COCO_TEST = 400
COCO_DEV = 100
FEWEST_CAPTIONS = 3
"""Of a COCO photo that is not learned from."""


@dataclass(frozen=True, kw_only=True)
class PhotoSets:
    """Both sets, which lie in one directory."""

    folder: Path
    """Holds `flickr8k/` and `coco-mixed/` as their READMEs describe them."""

    def flickr8k(self, split: Split) -> tuple[CaptionedImage, ...]:
        folder = self.folder / "flickr8k"
        source = CaptionSource(
            captions=folder / "Flickr8k.token.txt",
            images=folder / "images",
            names=folder / f"Flickr_8k.{split}Images.txt",
        )
        return read_captions(source).images

    def coco(self, split: Split) -> tuple[CaptionedImage, ...]:
        folder = self.folder / "coco-mixed"
        images = read_captions(CaptionSource(captions=folder / "captions.jsonl", images=folder / "images")).images
        splits = coco_splits(images)
        return tuple(image for image in images if splits[image.file.name] == split)

    def images(self, split: Split) -> list[CaptionedImage]:
        """Return the photos of both sets."""
        return [*self.flickr8k(split), *self.coco(split)]

    def write(self, split: Split, out: Path) -> CaptionSource:
        """Write the captions of a split of both sets, and return them as a source."""
        images = self.images(split)
        lines = (
            json.dumps({"image": str(image.file.relative_to(self.folder)), "captions": image.captions})
            for image in images
        )
        file = out / f"{split}.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return CaptionSource(captions=file, images=self.folder)

    def write_photos(self, out: Path) -> Path:
        """Write the names of all photos that are not for testing, also of those without captions; return the file."""
        left_out = {image.file for image in (*self.flickr8k("test"), *self.coco("test"))}
        folders = (self.folder / name / "images" for name in ("flickr8k", "coco-mixed"))
        photos = [file for folder in folders for file in sorted(folder.iterdir()) if file not in left_out]
        file = out / "photos.txt"
        file.write_text("".join(f"{photo.relative_to(self.folder)}\n" for photo in photos), "utf-8")
        return file


def coco_splits(images: Sequence[CaptionedImage]) -> dict[str, Split]:
    """Return the split of each photo by its name."""
    by_hash = sorted(images, key=lambda image: sha256(image.file.name.encode()).hexdigest())
    judged = [image.file.name for image in by_hash if len(image.captions) >= FEWEST_CAPTIONS][: COCO_TEST + COCO_DEV]
    splits: dict[str, Split] = {image.file.name: "train" for image in images}
    for number, name in enumerate(judged):
        splits[name] = "test" if number < COCO_TEST else "dev"
    return splits
