"""ONNX Runtime sessions: one thread each, because requests run beside each other anyway."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.errors import GraphError

Arrays = Mapping[str, NDArray[Any]]

SILENT = 4
"""Only what ends the process is printed. What fails is raised."""


class Session:
    """A graph that is ready to run. Safe to share between threads."""

    def __init__(self, graph: bytes, weights: Arrays) -> None:
        """Load a graph.

        Args:
            graph: bytes of an ONNX model whose large weights are outside.
            weights: those weights, by name.

        Raises:
            GraphError: ONNX Runtime cannot load it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = SILENT
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        try:
            options.add_external_initializers(list(values), list(values.values()))
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime's errors have no common type
            raise GraphError(f"ONNX Runtime cannot load a graph: {cause}") from cause

    def run(self, outputs: list[str], inputs: Arrays) -> list[NDArray[Any]]:
        """Return the outputs of these names."""
        return [np.asarray(value) for value in self._session.run(outputs, dict(inputs))]
