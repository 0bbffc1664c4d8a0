"""A captions file of squares of one colour, for trainings of a few seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from model.caption_files.read import CaptionSource


def write_squares(folder: Path, count: int, *captions: str) -> CaptionSource:
    """Write red, green and blue squares with these captions, in which `{color}` stands for the colour.

    The squares are a little noisy, so no two files are the same.
    """
    noise = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    rows = ["image,caption"]
    for number in range(count):
        color = ("red", "green", "blue")[number % 3]
        picture = np.asarray(Image.new("RGB", (32, 32), color)) * 0.8 + noise.integers(0, 40, (32, 32, 3))
        Image.fromarray(picture.astype(np.uint8)).save(images / f"{number}.png")
        rows += [f"{number}.png,{caption.format(color=color)}" for caption in captions]
    (folder / "captions.csv").write_text("\n".join(rows))
    return CaptionSource(captions=folder / "captions.csv", images=images)


def in_own_words(squares: CaptionSource, *, rare: str = "crimson") -> CaptionSource:
    """Return the squares with captions in new words, except for "a". Only the first caption contains `rare`."""
    rows = ["image,caption"]
    for number in range(len(list(squares.images.iterdir()))):
        color = ("crimson", "jade", "navy")[number % 3]
        rows.append(f"{number}.png,behold a {rare if number == 0 else color} tile")
    captions = squares.images.parent / "own.csv"
    captions.write_text("\n".join(rows))
    return replace(squares, captions=captions)
