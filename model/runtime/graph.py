"""Writes ONNX graphs. Their weights stay outside, so that a graph is small and its weights are never stored twice."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 21
IR_VERSION = 10
"""The newest that ONNX Runtime 1.20 reads."""
CONTRIBUTED = "com.microsoft"
"""Domain of the operators that only ONNX Runtime has."""
SMALL = 16
"""Arrays of so many numbers are kept in the graph, because ONNX Runtime needs shapes while it reads the graph."""
KEY = "key"
"""Name of the graph's digest in its metadata."""

Value = str | NDArray[Any] | np.generic
Described = tuple[str, Sequence[int | str]]
"""Type and shape of an input; a text stands for a size that varies."""


class Graph:
    """A graph under construction. Values are named by texts; arrays may stand for constants."""

    def __init__(self) -> None:
        self.weights: dict[str, NDArray[Any]] = {}
        """Constants that are not part of the graph, by name."""
        self._constants: dict[str, NDArray[Any]] = {}
        self._nodes: list[tuple[str, list[str], list[str], str, dict[str, Any]]] = []
        self._inputs: dict[str, Described] = {}
        self._outputs: dict[str, str] = {}
        self._count = 0

    def input(self, name: str, kind: str, shape: Sequence[int | str]) -> str:
        """Add an input of a numpy type, and return its name."""
        self._inputs[name] = kind, list(shape)
        return name

    def output(self, name: str, value: str, kind: str = "float32") -> None:
        """Let a value be an output of this name and numpy type."""
        self._outputs[name] = kind
        self._nodes.append(("Identity", [value], [name], "", {}))

    def op(self, kind: str, *inputs: Value, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output, and return the output's name."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: Value, domain: str = "", **attributes: Any) -> list[str]:
        """Add an operator with several outputs, and return their names."""
        names = [self._name(kind) for _ in range(outputs)]
        read = [value if isinstance(value, str) else self._constant(np.asarray(value)) for value in inputs]
        self._nodes.append((kind, read, names, domain, attributes))
        return names

    def split(self, value: str, widths: Sequence[int], axis: int = 1) -> list[str]:
        """Return parts of these widths of a value."""
        if len(widths) == 1:
            return [value]
        return self.ops("Split", len(widths), value, np.array(widths, np.int64), axis=axis)

    @property
    def key(self) -> str:
        """Digest of everything in the graph but the numbers in its weights."""
        constants = {name: (values.dtype.str, values.tolist()) for name, values in self._constants.items()}
        shapes = {name: (values.dtype.str, values.shape) for name, values in self.weights.items()}
        described = (OPSET, IR_VERSION, self._nodes, constants, shapes, self._inputs, self._outputs)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def serialized(self) -> bytes:
        """Return the graph as the bytes of an ONNX model."""
        from onnx import helper, numpy_helper  # imported here, because it takes 0.3 s and most graphs are stored

        def described(name: str, kind: str, shape: Sequence[int | str] | None) -> "onnx.ValueInfoProto":
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)

        graph = helper.make_graph(
            [
                helper.make_node(kind, read, names, domain=domain, **attributes)
                for kind, read, names, domain, attributes in self._nodes
            ],
            "captioner",
            [described(name, kind, shape) for name, (kind, shape) in self._inputs.items()],
            [described(name, kind, None) for name, kind in self._outputs.items()],
            [
                *(numpy_helper.from_array(values, name) for name, values in self._constants.items()),
                *(outside(name, values) for name, values in self.weights.items()),
            ],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIBUTED, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, {KEY: self.key})
        return bytes(model.SerializeToString())

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def _constant(self, values: NDArray[Any]) -> str:
        name = self._name("constant")
        if values.size <= SMALL:
            self._constants[name] = values
        else:
            self.weights[name] = np.ascontiguousarray(values)
        return name


def outside(name: str, values: NDArray[Any]) -> "onnx.TensorProto":
    """Describe an array that is given to ONNX Runtime beside the graph."""
    from onnx import TensorProto, helper

    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor
