"""Views of an image for training: mirrored, rotated, cropped and recoloured, so that the captions stay true."""

import random
from dataclasses import astuple, dataclass, field

from PIL import Image, ImageEnhance, ImageOps

from model.errors import TrainingError

_TINTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Largest differences between a view and its image."""

    crop: float = 0.75
    """Smallest share of the image's area in a view; 1 does not crop."""
    rotation: float = 0.0
    """Degrees in both directions."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise TrainingError(f"crop must be a share of the image above 0 and at most 1, got {self.crop}")
        if not 0 <= self.rotation <= 180:
            raise TrainingError(f"rotation must be 0 to 180 degrees, got {self.rotation}")
        if not 0 <= self.colour < 1:
            raise TrainingError(f"colour must be at least 0 and below 1, got {self.colour}")

    def view(self, image: Image.Image, image_key: str, number: int) -> Image.Image:
        """Return a view of an RGB image, in its size. The same key and number always give the same view.

        Args:
            image_key: SHA-256 of the image's content.
            number: 0 is the image itself and 1 its mirror image. From 2 on views are random; odd ones are mirrored.
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
        """Return left, top, right and bottom of the crop, whose aspect ratio differs by at most a quarter."""
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
        """Suffix of the image key in the feature store; empty for the image itself."""
        if self.number < 2:
            return "-mirrored" if self.number else ""
        return "-{}-{:g}-{:g}-{:g}".format(self.number, *astuple(self.augmentation))

    def of(self, image: Image.Image, image_key: str) -> Image.Image:
        return self.augmentation.view(image, image_key, self.number)


AS_IT_IS = View()


def is_mirrored(number: int) -> bool:
    """Return True if the view with this number is mirrored."""
    return number % 2 == 1
