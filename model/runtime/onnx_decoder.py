"""The recurrent decoder in ONNX Runtime: model/decoders/search.py searches with it as with torch's.

Shapes:  B images   P regions   D feature size   R rows, one per beam   N captions   T tokens   V vocabulary
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.decoders.search import NextTokens
from model.decoders.sizes import DecoderSizes
from model.runtime.decoder_graph import DecoderGraphs, Precision
from model.runtime.graph import Graph
from model.runtime.graph_files import IMAGES, STEP
from model.runtime.session import Session
from model.tokenizer import PAD


def serialized(_file: str, graph: Graph) -> bytes:
    return graph.serialized()


class OnnxDecoder:
    """A decoder, as `model.decoders.search.WordDecoder` says. Safe to share between threads."""

    def __init__(
        self,
        sizes: DecoderSizes,
        weights: Mapping[str, NDArray[Any]],
        precision: Precision = "int8",
        stored: Callable[[str, Graph], bytes] = serialized,
    ) -> None:
        """Make the graphs and load them.

        Args:
            sizes: of a decoder that `model.runtime.decoder_graph.is_supported`.
            weights: by the names that torch gives them, in floating point.
            precision: of the products of a step.
            stored: returns the bytes of a graph, IMAGES or STEP, which may be stored.
        """
        self.sizes = sizes
        graphs = DecoderGraphs(sizes, weights, precision)
        images, step = graphs.images(), graphs.step()
        self._images = Session(stored(IMAGES, images), images.weights)
        self._step = Session(stored(STEP, step), step.weights)

    def begin(self, features: NDArray[Any], candidates: int) -> "OnnxReading":
        """Look at images with features [B, P, D]."""
        return OnnxReading(self, features, min(candidates, self.sizes.vocabulary))

    def predict(self, features: NDArray[Any], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits [M, V] of the tokens of captions [N, T], each from the tokens before it."""
        reading = self.begin(features, 1)
        rows = list(range(len(tokens)))
        by_place = [reading.logits(tokens[:, place].tolist(), rows) for place in range(tokens.shape[1] - 1)]
        logits = np.stack(by_place, axis=1)  # [N, T - 1, V]
        return np.asarray(logits[tokens[:, 1:] != PAD])

    def look(self, features: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Return keys, values and the state before the first word."""
        return self._images.run(["keys", "values", "state"], {"features": np.asarray(features, np.float32)})

    def run_step(self, outputs: list[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._step.run(outputs, inputs)


class OnnxReading:
    """Images and captions that a decoder has read, as `model.decoders.search.Reading` says."""

    def __init__(self, decoder: OnnxDecoder, features: NDArray[Any], candidates: int) -> None:
        self._decoder, self._candidates = decoder, np.array([candidates], np.int64)
        self._all_keys, self._all_values, self._state = decoder.look(features)
        self._keys, self._values = self._all_keys, self._all_values

    def step(self, tokens: Sequence[int], parents: Sequence[int], images: Sequence[int]) -> NextTokens:
        if len(images) != len(self._keys):
            self._keys, self._values = self._all_keys[images], self._all_values[images]
        outputs = ["log_probs", "best", "attention", "next_state"]
        log_probs, best, attention, self._state = self._decoder.run_step(outputs, self._inputs(tokens, parents))
        return NextTokens(log_probs, best, attention.reshape(len(tokens), -1))

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> NDArray[np.float32]:
        """Read one token of a caption of each image, and return the logits [B, V] of the next one."""
        logits, self._state = self._decoder.run_step(["logits", "next_state"], self._inputs(tokens, parents))
        return logits

    def _inputs(self, tokens: Sequence[int], parents: Sequence[int]) -> dict[str, NDArray[Any]]:
        width = len(tokens) // len(self._keys)
        return {
            "tokens": np.array(tokens, np.int64),
            "parents": np.array(parents, np.int64),
            "shape": np.array([len(self._keys), width, 1, self._keys.shape[3]], np.int64),
            "keys": self._keys,
            "values": self._values,
            "state": self._state,
            "candidates": self._candidates,
        }
