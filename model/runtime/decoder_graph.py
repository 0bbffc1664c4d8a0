"""The recurrent decoder (model/decoders/recurrent.py) as ONNX graphs: one reads images, one reads a word.

The step is arranged so that a state passes through as few matrix products as possible: the weights of all readers of
a state stand side by side, so each state is read once. What the next step needs of it travels with the state of the
decoder. The product of word and gates is a table, because there are only as many words as the vocabulary has.

In 8 bits a product multiplies integers: weights with one scale per output, as they are stored, and states with one
scale. States lie between -1 and 1, so their scale is fixed. The context of attention has a few large numbers; it is
rounded to 16 bits, as two integers of 8 bits, because rounding it to 8 changed twice as many captions.

Shapes:  B images   P regions   D feature size   K rows per image   R = B * K rows   S rows of the last step
         H hidden   A attention   E embedding   V vocabulary   G gates   C candidates
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.decoders.sizes import RECURRENT, DecoderSizes
from model.precision import LARGEST
from model.runtime.graph import CONTRIBUTED, Graph
from model.tokenizer import FIRST_WORD, PAD, SPELL, START

Precision = Literal["int8", "float32"]
GATES = {"lstm": 4, "peephole": 4, "gru": 3, "rnn": 1}
EXCLUDED = -1e30
"""Added to the logits of tokens that are never written."""
MIDDLE = np.uint8(128)
"""The unsigned integer that stands for 0."""
COARSE, FINER = np.float32(1 / LARGEST), np.float32(2 * LARGEST)
FLOAT = 1
"""Number of float32 among ONNX's types."""


def is_supported(sizes: DecoderSizes) -> bool:
    """Return True if a decoder of these sizes can run without torch."""
    return sizes.cell in RECURRENT and sizes.attention > 0 and not sizes.recurrent_regions


class DecoderGraphs:
    """Makes both graphs of a decoder."""

    def __init__(self, sizes: DecoderSizes, weights: Mapping[str, NDArray[Any]], precision: Precision) -> None:
        """Prepare the weights.

        Args:
            sizes: of a decoder that `is_supported`.
            weights: by the names that torch gives them, in floating point.
            precision: of the products of a step. Those of images are always in float32.
        """
        self.sizes, self.precision = sizes, precision
        self._weights = {name: np.asarray(values, np.float32) for name, values in weights.items()}
        self._gates = GATES[sizes.cell] * sizes.hidden
        hidden, top = sizes.hidden, sizes.layers - 1
        to_first, readout = self._turned("from_context.weight"), self._turned("readout.weight")
        self._of_context = {"input": to_first[:hidden], "readout": readout[hidden:]}
        """The matrices that multiply the context, each named by what is computed with it."""
        self._of_layer: list[dict[str, NDArray[np.float32]]] = []
        """The same for the output of each layer."""
        self._biases: list[dict[str, NDArray[np.float32]]] = []
        """Added to those products of each layer's output."""
        for layer in range(sizes.layers):
            matrices = {"recurrent": self._turned(f"cells.{layer}.recurrent.weight")}
            biases = {}
            if layer == 0:
                matrices |= {"query": self._turned("query.weight"), "gate": self._turned("gate.weight")}
                biases["gate"] = self._weights["gate.bias"]
            if layer < top:
                above = self._turned(f"from_below.{layer}.weight")
                self._of_context[f"below {layer + 1}"], matrices["below"] = above[:hidden], above[hidden:]
                biases["below"] = self._with_open_forget_gate(self._weights[f"from_below.{layer}.bias"])
            else:
                matrices["readout"] = readout[:hidden]
                biases["readout"] = self._weights["readout.bias"]
                matrices |= {"input": to_first[hidden:]} if top else {}
            self._of_layer.append(matrices)
            self._biases.append(biases)

    def images(self) -> Graph:
        """Return the graph that reads images.

        features [B, P, D] -> keys [B, 1, P, A], values [B, P, H], state [B, ...]
        """
        sizes, graph = self.sizes, Graph()
        features = graph.input("features", "float32", ["B", "P", sizes.features])
        scale, weight = self._weights["feature_scale"], self._turned("value.weight")
        bias = self._weights["value.bias"] - (self._weights["feature_mean"] * scale) @ weight
        values = graph.op("Relu", graph.op("Add", graph.op("MatMul", features, scale[:, None] * weight), bias))
        keys = graph.op("MatMul", values, self._turned("key.weight"))
        keys = graph.op("Unsqueeze", graph.op("Add", keys, self._weights["key.bias"]), np.array([1]))
        context = graph.op("ReduceMean", values, np.array([1]), keepdims=0)
        first = graph.op("MatMul", context, self._turned("first.weight"))
        first = graph.op("Tanh", graph.op("Add", first, self._weights["first.bias"]))
        parts = graph.split(first, [sizes.hidden] * 2 * sizes.layers)
        hidden, memory = parts[: sizes.layers], parts[sizes.layers :]
        entering = graph.op("MatMul", context, self._of_context["input"])
        if sizes.layers > 1:
            entering = graph.op("Add", entering, graph.op("MatMul", hidden[-1], self._of_layer[-1]["input"]))
        state = [entering]
        for layer, matrices in enumerate(self._of_layer):
            state += [graph.op("MatMul", hidden[layer], matrices["recurrent"])]
            state += self._carried(hidden[layer], memory[layer])
        graph.output("keys", keys)
        graph.output("values", values)
        graph.output("state", graph.op("Concat", *state, axis=1))
        return graph

    def step(self) -> Graph:
        """Return the graph that reads a word in each row.

        tokens [R], parents [R], shape (B, K, 1, A), keys, values, state [S, ...], candidates [1]
            -> log_probs [R, C], best [R, C], attention [B, K, P], next_state [R, ...], logits [R, V]
        """
        sizes, graph = self.sizes, Graph()
        carried = len(self._carried("", ""))
        widths = [self._gates, *([self._gates, *[sizes.hidden] * carried] * sizes.layers)]
        graph.input("tokens", "int64", ["R"])
        graph.input("parents", "int64", ["R"])
        graph.input("shape", "int64", [4])
        graph.input("keys", "float32", ["B", 1, "P", sizes.attention])
        graph.input("values", "float32", ["B", "P", sizes.hidden])
        graph.input("state", "float32", ["S", sum(widths)])
        graph.input("candidates", "int64", [1])
        entering, *parts = graph.split(graph.op("Gather", "state", "parents"), widths)
        recurrent, carried_parts = (
            parts[:: 1 + carried],
            [parts[at + 1 : at + 1 + carried] for at in range(0, len(parts), 1 + carried)],
        )
        word, of_word = self._read_word(graph)
        state: list[str] = []
        hidden, now_carried = self._cell(graph, 0, graph.op("Add", of_word, entering), recurrent[0], carried_parts[0])
        read = self._product(graph, hidden, self._of_layer[0], self._biases[0], limit=1)
        state += [read["recurrent"], *now_carried]
        context, attention = self._attend(graph, read)
        of_context = self._product(graph, context, self._of_context, {}, limit=None)
        top = hidden
        for layer in range(1, sizes.layers):
            below = graph.op("Add", read["below"], of_context[f"below {layer}"])
            hidden, now_carried = self._cell(graph, layer, below, recurrent[layer], carried_parts[layer])
            top = graph.op("Add", top, hidden) if sizes.residual else hidden
            read = self._read_layer(graph, layer, hidden, top)
            state += [read["recurrent"], *now_carried]
        entering = graph.op("Add", of_context["input"], read["input"]) if sizes.layers > 1 else of_context["input"]
        output = graph.op("Add", word, graph.op("Add", read["readout"], of_context["readout"]))
        logits, log_probs, best = self._predict_words(graph, output)
        graph.output("log_probs", log_probs)
        graph.output("best", best, "int64")
        graph.output("attention", attention)
        graph.output("next_state", graph.op("Concat", entering, *state, axis=1))
        graph.output("logits", logits)
        return graph

    def _predict_words(self, graph: Graph, output: str) -> tuple[str, str, str]:
        """Return the logits of all words, and the log-probabilities and tokens of the best ones.

        Args:
            graph: gets the operators.
            output: of the layer before the vocabulary, [R, E].
        """
        vocabulary = {"words": np.ascontiguousarray(self._turned("embedding.weight"))}
        bias = {"words": self._weights["bias"]}
        logits = self._product(graph, graph.op("Tanh", output), vocabulary, bias, limit=1)["words"]
        never = np.zeros(self.sizes.vocabulary, np.float32)
        never[[PAD, START]] = never[SPELL:FIRST_WORD] = EXCLUDED
        log_probs = graph.op("LogSoftmax", graph.op("Add", logits, never), axis=1)
        best_log_probs, best = graph.ops("TopK", 2, log_probs, "candidates", axis=1)
        return logits, best_log_probs, best

    def _read_word(self, graph: Graph) -> tuple[str, str]:
        """Return the embedding of each row's token [R, E], and its part of the first layer's gates [R, G * H]."""
        embedding = self._weights["embedding.weight"]
        gates = embedding @ self._turned("from_word.weight") + self._weights["from_word.bias"]
        table = np.concatenate([embedding, self._with_open_forget_gate(gates)], axis=1)
        if self.precision == "int8":
            table = table.astype(np.float16)
        read = graph.op("Cast", graph.op("Gather", table, "tokens"), to=FLOAT)
        word, of_word = graph.split(read, [self.sizes.embedding, self._gates])
        return word, of_word

    def _attend(self, graph: Graph, read: Mapping[str, str]) -> tuple[str, str]:
        """Return the context [R, H] and the weights [B, K, P] of additive attention."""
        query = graph.op("Reshape", read["query"], "shape")
        mixed = graph.op("Tanh", graph.op("Add", "keys", query))  # [B, K, P, A]
        energy = graph.op("Squeeze", graph.op("MatMul", mixed, self._turned("energy.weight")), np.array([3]))
        attention = graph.op("Softmax", energy, axis=-1)
        weighted = graph.op("Reshape", graph.op("MatMul", attention, "values"), np.array([-1, self.sizes.hidden]))
        return graph.op("Mul", graph.op("Sigmoid", read["gate"]), weighted), attention

    def _read_layer(self, graph: Graph, layer: int, hidden: str, top: str) -> dict[str, str]:
        """Return the products of a layer's output. With residual layers it is added to the layers below for those who
        read it in this step; the next step reads it alone."""
        matrices, biases = self._of_layer[layer], self._biases[layer]
        if hidden == top:
            return self._product(graph, hidden, matrices, biases, limit=1)
        next_step = {name: matrix for name, matrix in matrices.items() if name in ("recurrent", "input")}
        this_step = {name: matrix for name, matrix in matrices.items() if name not in next_step}
        read = self._product(graph, hidden, next_step, {}, limit=1)
        return read | self._product(graph, top, this_step, biases, limit=layer + 1)

    def _cell(self, graph: Graph, layer: int, inputs: str, recurrent: str, carried: list[str]) -> tuple[str, list[str]]:
        """Return the output of a cell and what it carries to the next step (model/decoders/cells.py)."""
        size = self.sizes.hidden
        if self.sizes.cell == "gru":
            read_both, read_new = graph.split(inputs, [2 * size, size])
            own_both, own_new = graph.split(recurrent, [2 * size, size])
            reset, keep = graph.split(graph.op("Sigmoid", graph.op("Add", read_both, own_both)), [size, size])
            new = graph.op("Tanh", graph.op("Add", read_new, graph.op("Mul", reset, own_new)))
            hidden = graph.op("Add", new, graph.op("Mul", keep, graph.op("Sub", carried[0], new)))
            return hidden, self._carried(hidden, "")
        gates = graph.op("Add", inputs, recurrent)
        if self.sizes.cell == "rnn":
            return graph.op("Tanh", gates), []
        if self.sizes.cell == "peephole":
            forget, enter, leave, new = graph.split(gates, [size] * 4)
            to_forget, to_enter, to_leave = self._weights[f"cells.{layer}.peepholes"]
            forget = graph.op("Sigmoid", graph.op("Add", forget, graph.op("Mul", carried[0], to_forget)))
            enter = graph.op("Sigmoid", graph.op("Add", enter, graph.op("Mul", carried[0], to_enter)))
        else:
            openings, new = graph.split(gates, [3 * size, size])
            forget, enter, leave = graph.split(graph.op("Sigmoid", openings), [size] * 3)
        entering = graph.op("Mul", enter, graph.op("Tanh", new))
        memory = graph.op("Add", graph.op("Mul", forget, carried[0]), entering)
        if self.sizes.cell == "peephole":
            leave = graph.op("Sigmoid", graph.op("Add", leave, graph.op("Mul", memory, to_leave)))
        hidden = graph.op("Mul", leave, graph.op("Tanh", memory))
        return hidden, self._carried(hidden, memory)

    def _carried(self, hidden: str, memory: str) -> list[str]:
        """Return what a cell needs of its last step, beside the product of its output."""
        return {"lstm": [memory], "peephole": [memory], "gru": [hidden], "rnn": []}[self.sizes.cell]

    def _product(
        self,
        graph: Graph,
        rows: str,
        matrices: Mapping[str, NDArray[np.float32]],
        biases: Mapping[str, NDArray[np.float32]],
        *,
        limit: int | None,
    ) -> dict[str, str]:
        """Return the product of rows with each matrix, computed as one.

        Args:
            graph: gets the operators.
            rows: [R, N].
            matrices: [N, M] each, by name.
            biases: by the names of their matrices; only with a limit.
            limit: the numbers in the rows lie between -limit and limit; None: they are 0 or more.
        """
        matrix = np.concatenate(list(matrices.values()), axis=1)
        widths = [of_name.shape[1] for of_name in matrices.values()]
        none = (np.zeros(width, np.float32) for width in widths)
        bias = np.concatenate([biases.get(name, zero) for name, zero in zip(matrices, none, strict=True)])
        if self.precision == "float32":
            result = graph.op("Gemm", rows, np.ascontiguousarray(matrix), bias)
        elif limit is not None:
            scale = np.float32(limit / LARGEST)
            integers = graph.op("QuantizeLinear", rows, scale, MIDDLE)
            result = self._integer_product(graph, integers, matrix, scale, bias)
        else:
            result = self._precise_product(graph, rows, matrix)
        return dict(zip(matrices, graph.split(result, widths), strict=True))

    def _precise_product(self, graph: Graph, rows: str, matrix: NDArray[np.float32]) -> str:
        """Return a product of rows whose largest numbers are far larger than the others.

        A row is rounded to 8 bits, what is left of it is rounded to 8 bits of a finer scale, and both are multiplied
        at once.
        """
        largest = graph.op("Add", graph.op("ReduceMax", rows, np.array([1])), np.float32(1e-9))
        shares = graph.op("Div", rows, largest)
        coarse = graph.op("QuantizeLinear", shares, COARSE, MIDDLE)
        rest = graph.op("Sub", shares, graph.op("DequantizeLinear", coarse, COARSE, MIDDLE))
        fine = graph.op("QuantizeLinear", graph.op("Mul", rest, FINER), COARSE, MIDDLE)
        both = self._integer_product(graph, graph.op("Concat", coarse, fine, axis=0), matrix, COARSE)
        of_coarse, of_fine = graph.ops("Split", 2, both, axis=0, num_outputs=2)
        return graph.op("Mul", graph.op("Add", of_coarse, graph.op("Div", of_fine, FINER)), largest)

    @staticmethod
    def _integer_product(
        graph: Graph,
        integers: str,
        matrix: NDArray[np.float32],
        scale: np.float32,
        bias: NDArray[np.float32] | None = None,
    ) -> str:
        """Return the product of rows of unsigned integers, 128 of which is 0, with a matrix."""
        scales = np.maximum(np.abs(matrix).max(axis=0) / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
        # As unsigned integers: with signed weights ONNX Runtime may exceed 16 bits on a CPU that has only AVX2.
        weights = (np.rint(matrix / scales) + 128).astype(np.uint8)
        zeros = np.full(matrix.shape[1], MIDDLE)
        inputs = (integers, weights, scale, scales, MIDDLE, zeros, *([] if bias is None else [bias]))
        return graph.op("MatMulIntegerToFloat", *inputs, domain=CONTRIBUTED)

    def _with_open_forget_gate(self, gates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the 1 with which an LSTM's forget gate starts open to the inputs of the gates [..., G * H]."""
        if self.sizes.cell in ("lstm", "peephole"):
            gates = gates.copy()
            gates[..., : self.sizes.hidden] += 1
        return gates

    def _turned(self, name: str) -> NDArray[np.float32]:
        """Return a weight as the matrix that rows are multiplied with, [inputs, outputs]."""
        return self._weights[name].T
