"""One vector for each image, to find the images that look like it.

    features [P, D] -> standardised by channel -> mean over regions [D] -> main axes of the bundle [V] -> length 1

The axes come from the bundle alone. So vectors that one process has stored fit those of every other process with the
same bundle.

Shapes:  P image regions   D feature size   V length of a vector   N images
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

AXES = 256
"""Main axes that are kept: a hundred thousand vectors in half precision take 51 MB."""

Vector = NDArray[np.float16]


class VectorSpace:
    """Turns the features of images into vectors that can be compared."""

    def __init__(
        self,
        mean: NDArray[np.float32],
        axes: NDArray[np.float32],
        name: str,
        own: NDArray[np.float16] | None = None,
    ) -> None:
        """Keep the axes.

        Args:
            mean: of the features, [D].
            axes: each scales a channel and turns it into the vectors' axes, [D, V].
            name: changes whenever vectors of another kind are made.
            own: vectors of the bundle's images, [N, V].
        """
        self.mean, self.axes, self.name, self.own = mean, axes, name, own

    @classmethod
    def of(
        cls, mean: NDArray[np.float32], scale: NDArray[np.float32], features: NDArray[np.float16], name: str
    ) -> Self:
        """Return the space of a bundle: principal components of the regions of its replayed images.

        Args:
            mean: of the features, [D].
            scale: 1 / deviation of each channel, [D].
            features: of the replayed images, [N, P, D].
            name: as in the constructor.
        """
        axes = np.eye(len(mean))
        if len(mean) > AXES and len(features):
            together = np.zeros((len(mean), len(mean)))
            for image in features:  # one after another, because all of them in double precision take 100 MB
                regions = (image.astype(np.float64) - mean) * scale
                together += regions.T @ regions
            _, vectors = np.linalg.eigh(together)
            axes = vectors[:, ::-1][:, :AXES]
            largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
            axes = axes * np.sign(largest)
        space = cls(mean, (scale.astype(np.float64)[:, None] * axes).astype(np.float32), name)
        if len(features):
            space.own = space.vectors(features)
        return space

    @property
    def length(self) -> int:
        return int(self.axes.shape[1])

    def vectors(self, features: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float16]:
        """Return the vectors [N, V] of images with features [P, D], each of length 1."""
        if not len(features):
            return np.zeros((0, self.length), np.float16)
        pooled = np.stack([image.mean(axis=0, dtype=np.float32) for image in features])
        turned = (pooled - self.mean) @ self.axes
        lengths = np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-12)
        return np.asarray(turned / lengths, np.float16)

    def nearest_own(self, vectors: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return for each image [N, V] its cosine with the most alike of the bundle's images, [N]; None without any."""
        if self.own is None:
            return None
        return np.asarray((vectors @ self.own.astype(np.float32).T).max(axis=1))


def space_name(digest: str, fingerprint: str) -> str:
    """Return the name of the space of a bundle with this digest and this encoder."""
    return hashlib.sha256(f"{digest} {fingerprint} {AXES}".encode()).hexdigest()[:12]
