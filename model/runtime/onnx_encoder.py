"""An image encoder in ONNX Runtime.

Shapes:  B batch   S image side   P regions   D feature size
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.session import Session
from model.vision.encoder_spec import EncoderSpec, fingerprint

PIXELS, GRID = "images", "grid"
OUTSIDE = "weights/"
"""Before the names of weights in the graph; torch gives the same names to other values too."""


class OnnxEncoder:
    """A frozen network that turns images into features. Safe to share between threads."""

    def __init__(self, spec: EncoderSpec, graph: bytes, weights: Mapping[str, NDArray[Any]]) -> None:
        """Load the graph.

        Args:
            spec: name and preprocessing.
            graph: content of encoder.onnx.
            weights: in floating point, by the names that torch gives them.

        Raises:
            GraphError: the graph cannot be run.
        """
        self.spec = spec
        self.fingerprint = fingerprint(spec, weights)
        size = spec.preprocessing.size
        self._session = Session(graph, used_weights(graph, weights))
        grid = self._session.run([GRID], {PIXELS: np.zeros((1, 3, size, size), np.float32)})[0]
        self.feature_size: int = grid.shape[1]
        self.regions: int = grid.shape[2] * grid.shape[3]

    def encode(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the features [B, P, D] of preprocessed images, [3, S, S] each."""
        features = np.empty((len(images), self.regions, self.feature_size), np.float32)
        for place, image in enumerate(images):  # several at once are no faster, and take more memory
            grid = self._session.run([GRID], {PIXELS: image[None]})[0]  # [1, D, height, width]
            features[place] = grid.reshape(self.feature_size, self.regions).T
        return features


def used_weights(graph: bytes, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the weights that a graph names. Counters of batches, for example, are only used in training."""
    named = {name: OUTSIDE + name for name in weights}
    # In the bytes of an ONNX model a name follows its length.
    used = {name for name, written in named.items() if bytes([len(written)]) + written.encode() in graph}
    return {named[name]: np.ascontiguousarray(weights[name]) for name in used}
