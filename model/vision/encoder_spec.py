"""What an image encoder is, whatever computes it.

Shapes:  B batch   S image side   P regions   D feature size
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.vision.images import Preprocessing

SCENE_CNN = "scene_cnn"


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """The network that reads the images, and their preprocessing."""

    name: str
    """`scene_cnn`, or any backbone of torchvision or timm that ends in a feature map, such as `mobilenet_v2`."""
    preprocessing: Preprocessing

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class ImageEncoder(Protocol):
    """Turns images into features."""

    spec: EncoderSpec
    feature_size: int
    """D"""
    regions: int
    """P"""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with the network, its weights or the preprocessing; a key of stored features."""
        ...

    def encode(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the features [B, P, D] of preprocessed images, [3, S, S] each."""
        ...


def fingerprint(spec: EncoderSpec, weights: Mapping[str, NDArray[Any]]) -> str:
    """Return 12 hex digits that change with the network, its weights [...] by name, or the preprocessing."""
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    for name, values in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]
