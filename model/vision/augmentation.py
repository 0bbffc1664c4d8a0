"""Views: pictures turned left to right, rotated, cut and tinted at random, of which the same captions are true."""

import random
from dataclasses import astuple, dataclass, field

from PIL import Image, ImageEnhance, ImageOps

from model.errors import TrainingError

_TINTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a view may be from its picture."""

    crop: float = 0.75
    """Least share of the picture's area that is kept; 1 keeps all of it."""
    rotation: float = 0.0
    """Degrees to either side."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise TrainingError(f"crop must be a share of the picture above 0 and at most 1, got {self.crop}")
        if not 0 <= self.rotation <= 180:
            raise TrainingError(f"rotation must be 0 to 180 degrees, got {self.rotation}")
        if not 0 <= self.colour < 1:
            raise TrainingError(f"colour must be at least 0 and below 1, got {self.colour}")

    def view(self, image: Image.Image, image_key: str, number: int) -> Image.Image:
        """Return one view of an RGB image, at its size; always the same for the same key and number.

        Args:
            image: the picture.
            image_key: SHA-256 of the image's content.
            number: 0 is the picture itself, 1 is turned left to right; from 2 on views are drawn at random, and those
                with an odd number are turned too.
        """
        view = ImageOps.mirror(image) if is_mirrored(number) else image
        if number < 2:
            return view
        draw = random.Random(f"{image_key} {number}")
        if self.rotation:
            view = view.rotate(draw.uniform(-self.rotation, self.rotation), Image.Resampling.BILINEAR)
        if self.crop < 1:
            view = view.resize(view.size, Image.Resampling.BILINEAR, box=self._box(view, draw))
        if self.colour:
            for tint in _TINTS:
                view = tint(view).enhance(draw.uniform(1 - self.colour, 1 + self.colour))
        return view

    def _box(self, image: Image.Image, draw: random.Random) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of what is kept, up to a quarter wider or higher than the picture is."""
        side, stretch = draw.uniform(self.crop, 1) ** 0.5, draw.uniform(0.8, 1.25) ** 0.5
        width, height = image.width * min(1.0, side * stretch), image.height * min(1.0, side / stretch)
        left, top = draw.uniform(0, image.width - width), draw.uniform(0, image.height - height)
        return left, top, left + width, top + height


@dataclass(frozen=True, kw_only=True)
class View:
    """One of an image's views."""

    number: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def key(self) -> str:
        """What it adds to the name of the image's features; empty for the picture itself."""
        if self.number < 2:
            return "-mirrored" if self.number else ""
        return "-{}-{:g}-{:g}-{:g}".format(self.number, *astuple(self.augmentation))

    def of(self, image: Image.Image, image_key: str) -> Image.Image:
        """Return the view of an image."""
        return self.augmentation.view(image, image_key, self.number)


AS_IT_IS = View()


def is_mirrored(number: int) -> bool:
    """Say whether a view shows the picture turned left to right."""
    return number % 2 == 1
