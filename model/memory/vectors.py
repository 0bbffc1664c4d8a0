"""One vector for each image, to find the images that look like it.

    features [P, D] -> standardised by channel -> mean over regions [D] -> main axes of the bundle [V] -> length 1

The axes come from the bundle alone. So vectors that one process has stored fit those of every other process with the
same bundle.

Shapes:  P image regions   D feature size   V length of a vector   N images
"""

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle import Bundle

AXES = 256
"""Main axes that are kept: a hundred thousand vectors in half precision take 51 MB."""

Vector = NDArray[np.float16]


class VectorSpace:
    """Turns the features of images into vectors that can be compared."""

    def __init__(self, mean: Tensor, axes: Tensor, name: str) -> None:
        """Keep the axes.

        Args:
            mean: of the features, [D].
            axes: each scales a channel and turns it into the vectors' axes, [D, V].
            name: changes whenever vectors of another kind are made.
        """
        self._mean, self._axes, self.name = mean, axes, name
        self._own: Tensor | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the space of a bundle: principal components of the regions of its replayed images."""
        mean, scale = bundle.decoder.feature_mean.double(), bundle.decoder.feature_scale.double()
        size = len(mean)
        axes = torch.eye(size, dtype=torch.float64)
        if size > AXES and bundle.replay:
            features = torch.stack([example.features for example in bundle.replay]).double()
            regions = ((features - mean) * scale).flatten(0, 1)
            _, vectors = torch.linalg.eigh(regions.T @ regions)
            axes = vectors.flip(1)[:, :AXES]
            largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
            axes = axes * largest.sign()
        name = hashlib.sha256(f"{bundle.digest} {bundle.encoder.fingerprint} {AXES}".encode()).hexdigest()[:12]
        space = cls(mean.float(), (scale[:, None] * axes).float(), name)
        if bundle.replay:
            own = space.vectors([example.features for example in bundle.replay])
            space._own = torch.from_numpy(own).float()
        return space

    @property
    def length(self) -> int:
        return int(self._axes.shape[1])

    def vectors(self, features: Sequence[Tensor]) -> NDArray[np.float16]:
        """Return the vectors [N, V] of images with features [P, D], each of length 1."""
        if not features:
            return np.zeros((0, self.length), np.float16)
        pooled = torch.stack([image.float().mean(dim=0) for image in features])
        turned = (pooled - self._mean) @ self._axes
        return np.asarray(torch.nn.functional.normalize(turned, dim=-1).half().numpy())

    def nearest_own(self, vectors: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return for each image [N, V] its cosine with the most alike of the bundle's images, [N]; None without any."""
        if self._own is None:
            return None
        return np.asarray((torch.from_numpy(vectors) @ self._own.T).amax(dim=1))
