"""Writes the graph of a bundle's encoder, `encoder.onnx`, so that ONNX Runtime can run it. This needs torch once.

    python -m model.runtime.encoder_graph BUNDLE FILE

The graph holds no weights, only their names in encoder.safetensors and the SHA-256 of that file.

Shapes:  B batch   S image side   D feature size
"""

import argparse
import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from model.bundle import Bundle, arrays, load_bundle
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.manifest import bundle_path
from model.runtime.graph import ENCODER_GRAPH, outside
from model.runtime.onnx_encoder import GRID, IMAGES, OUTSIDE, WEIGHTS
from model.runtime.serving_bundle import ServingBundle
from model.store import replaced_file
from model.tokenizer import caption_tokens, padded_tokens
from model.vision.encoder import Encoder

EXPORT_OPSET = 18
SAME_FEATURES = 1e-3
"""Largest difference of features, relative to the largest feature."""
SAME_LOGITS = 0.1
"""Largest mean difference of logits, relative to their deviation: 8 bits round them."""


def encoder_graph(encoder: Encoder, weights_digest: str) -> bytes:
    """Return the graph of an encoder.

    Args:
        encoder: a frozen encoder.
        weights_digest: SHA-256 of the file that holds its weights.
    """
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
            input_names=[IMAGES],
            output_names=[GRID],
            dynamic_axes={IMAGES: {0: "B"}, GRID: {0: "B"}},
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
    onnx.helper.set_model_props(model, {WEIGHTS: weights_digest})
    return bytes(model.SerializeToString())


def write_encoder_graph(path: Path, encoder: Encoder, file: Path | None = None) -> None:
    """Write the graph of a bundle's encoder.

    Args:
        path: directory of the bundle, which holds the encoder's weights.
        encoder: of the bundle.
        file: to write; None: the bundle's own.
    """
    digest = hashlib.sha256((path / "encoder.safetensors").read_bytes()).hexdigest()
    with replaced_file(file or path / ENCODER_GRAPH) as written:
        written.write(encoder_graph(encoder, digest))


def write_graphs(path: Path, bundle: Bundle) -> None:
    """Write the graphs with which ONNX Runtime serves a bundle, and compare what it computes with torch.

    Args:
        path: directory of the bundle.
        bundle: as torch loaded it from there.

    Raises:
        BundleError: ONNX Runtime computes something else.
    """
    write_encoder_graph(path, bundle.encoder)
    ours, theirs = ServingBundle(path).captioner(), bundle.captioner()
    picture = [Image.radial_gradient("L").convert("RGB")]
    features, expected = ours.encode(picture), theirs.encode(picture)
    error = float(np.abs(features - expected).max() / np.abs(expected).max())
    caption = theirs.caption(expected, DecodingOptions())[0][0].text
    tokens = padded_tokens([caption_tokens(bundle.tokenizer, caption)])
    logits, wanted = ours.decoder.predict(features, tokens), theirs.decoder.predict(expected, tokens)
    difference = float(np.abs(logits - wanted).mean() / wanted.std())
    if not (error < SAME_FEATURES and difference < SAME_LOGITS):
        raise BundleError(
            f"ONNX Runtime computes something else than torch with bundle {path}: its features differ by {error:.1e} "
            f"and its logits by {difference:.1e}, at most {SAME_FEATURES:g} and {SAME_LOGITS:g} are expected"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="encoder_graph", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("bundle")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args(argv)
    path = bundle_path(arguments.bundle)
    write_encoder_graph(path, load_bundle(str(path)).encoder, arguments.file)


if __name__ == "__main__":
    main()
