"""Writes the graphs with which ONNX Runtime serves a bundle. This needs torch once.

    python -m model.runtime.write_graphs BUNDLE FOLDER

The graphs hold no weights, only their names in the files of weights.

Shapes:  B batch   S image side   D feature size
"""

import argparse
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from model.bundle import Bundle, arrays, load_bundle
from model.manifest import bundle_path, parse_manifest
from model.runtime.check_caption import check_picture, make_check
from model.runtime.decoder_graph import DecoderGraphs
from model.runtime.graph import outside
from model.runtime.graph_files import ENCODER, IMAGES, STEP, GraphFiles, write_graph_files
from model.runtime.onnx_encoder import GRID, OUTSIDE, PIXELS
from model.vision.encoder import Encoder

EXPORT_OPSET = 18


def encoder_graph(encoder: Encoder) -> bytes:
    """Return the graph of a frozen encoder: images [B, 3, S, S] -> grid [B, D, height, width]."""
    size = encoder.spec.preprocessing.size
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers another exporter, whose graphs run at a third of the speed
        torch.onnx.export(
            encoder.network,
            (torch.zeros(2, 3, size, size),),
            file,  # type: ignore[arg-type]  # this exporter writes to files that are open, too
            dynamo=False,
            opset_version=EXPORT_OPSET,
            input_names=[PIXELS],
            output_names=[GRID],
            dynamic_axes={PIXELS: {0: "B"}, GRID: {0: "B"}},
            # The weights keep their names, and ONNX Runtime folds batch normalisation when it loads them.
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    model = onnx.load_from_string(file.getvalue())
    weights = arrays(encoder.network)
    renamed = {tensor.name: OUTSIDE + tensor.name for tensor in model.graph.initializer if tensor.name in weights}
    for tensor in model.graph.initializer:
        if tensor.name in renamed:
            tensor.CopyFrom(outside(renamed[tensor.name], weights[tensor.name]))
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return bytes(model.SerializeToString())


def write_graphs(path: Path, bundle: Bundle, folder: Path) -> None:
    """Write the graphs with which ONNX Runtime serves a bundle.

    Args:
        path: directory of the bundle.
        bundle: as torch loaded it from there.
        folder: to write to.
    """
    decoder = DecoderGraphs(bundle.decoder.sizes, arrays(bundle.decoder), "int8")
    contents = {
        ENCODER: encoder_graph(bundle.encoder),
        IMAGES: decoder.images().serialized(),
        STEP: decoder.step().serialized(),
    }
    features = bundle.captioner().encode([check_picture()])[0]
    weights = parse_manifest((path / "bundle.json").read_bytes())["files"]
    write_graph_files(folder, GraphFiles(contents=contents, check=make_check(bundle.decoder, features)), weights)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="write_graphs", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    path = bundle_path(arguments.bundle)
    write_graphs(path, load_bundle(path), arguments.folder)


if __name__ == "__main__":
    main()
