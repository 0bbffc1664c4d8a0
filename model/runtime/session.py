"""ONNX Runtime sessions: one thread each, because requests run beside each other anyway."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Session:
    """A graph that is ready to run. Safe to share between threads."""

    def __init__(self, graph: bytes, weights: Arrays) -> None:
        """Load a graph.

        Args:
            graph: bytes of an ONNX model whose large weights are outside.
            weights: those weights, by name.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        options.add_external_initializers(list(values), list(values.values()))
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, outputs: list[str], inputs: Arrays) -> list[NDArray[Any]]:
        """Return the outputs of these names."""
        return [np.asarray(value) for value in self._session.run(outputs, dict(inputs))]
