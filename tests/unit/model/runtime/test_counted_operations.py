"""What a word of a caption costs, counted and not timed: products, their numbers, and steps of the search."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backend.demo.scenes.drawing import draw_scenes
from model.decoders.search import DecodingOptions, NextTokens, Reading, beam_search
from model.manifest import bundle_path
from model.runtime.graph_files import STEP
from model.runtime.serving_bundle import ServingBundle

PRODUCT = "MatMulIntegerToFloat"
EXPECTED = {
    # Products of a step, the numbers of their weights, operators of all kinds.
    "photos": (4, 512 * (768 + 2048 + 2048 + 2048 + 512 + 2048 + 512 + 2048 + 2048 + 3474), 73),
    "scenes": (3, 256 * (128 + 256 + 1024 + 128 + 1024 + 128) + 128 * 320, 58),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_word_reads_each_weight_once_and_in_few_products(name: str) -> None:
    graph = onnx.load(bundle_path(name) / STEP, load_external_data=False).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == PRODUCT]

    multiplied = [weights[node.input[1]] for node in products]

    counted, numbers, operators = EXPECTED[name]
    assert len(products) == counted
    assert sum(math.prod(tensor.dims) for tensor in multiplied) == numbers
    assert {tensor.data_type for tensor in multiplied} == {onnx.TensorProto.UINT8}
    assert sum(node.op_type == "MatMul" for node in graph.node) == 2  # energies and context of attention
    assert len(graph.node) <= operators


class CountedReading:
    """Counts the rows that a decoder reads."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.rows: list[int] = []

    def step(self, tokens: Sequence[int], parents: Sequence[int], images: Sequence[int]) -> NextTokens:
        self.rows.append(len(tokens))
        return self._reading.step(tokens, parents, images)


class CountedDecoder:
    """A decoder that remembers what it read."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.readings: list[CountedReading] = []

    def begin(self, features: NDArray[Any], candidates: int) -> CountedReading:
        self.readings.append(CountedReading(self._decoder.begin(features, candidates)))
        return self.readings[-1]

    def predict(self, features: NDArray[Any], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        raise AssertionError("the search predicts no given caption")


def test_images_whose_captions_are_found_are_read_no_longer() -> None:
    captioner = ServingBundle(bundle_path("scenes")).captioner()
    decoder = CountedDecoder(captioner.decoder)
    features = captioner.encode([picture for picture, _ in draw_scenes(4, seed=3)])

    beam_search(decoder, features, DecodingOptions())
    together = decoder.readings[0].rows
    for image in range(4):
        beam_search(decoder, features[image : image + 1], DecodingOptions())
    alone = [reading.rows for reading in decoder.readings[1:]]

    assert len(set(map(len, alone))) > 1  # or nothing could leave early
    assert max(map(len, alone)) < DecodingOptions().max_tokens
    assert together[0] == 4  # the first word is read once for each image, not once for each beam
    assert sum(together) == sum(map(sum, alone))
    assert len(together) == max(map(len, alone))
