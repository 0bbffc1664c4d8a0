"""The graphs that a bundle carries for ONNX Runtime. They hold no weights.

encoder.onnx  decoder-images.onnx  decoder-step.onnx
runtime.json     SHA-256 of each graph and of the weights that belong to it; a caption, to check what is computed

`model/runtime/write_graphs.py` writes them, with torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from model.errors import GraphError
from model.runtime.check_caption import Check
from model.runtime.graph import Graph
from model.store import replaced_file

ENCODER, IMAGES, STEP = "encoder.onnx", "decoder-images.onnx", "decoder-step.onnx"
DESCRIPTION = "runtime.json"
WEIGHTS = ("encoder.safetensors", "decoder.safetensors")


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """The graphs of a bundle."""

    contents: Mapping[str, bytes]
    """By file."""
    check: Check
    """What torch writes for `model.runtime.check.check_picture`."""

    def of_decoder(self, file: str, graph: Graph) -> bytes:
        """Return a graph of the decoder; raises GraphError if this program writes another one."""
        content = self.contents[file]
        if graph.key.encode() not in content:
            raise GraphError(f"{file} was written by another version of this program")
        return content


def read_graphs(folder: Path, weights: Mapping[str, str]) -> GraphFiles:
    """Read the graphs of a bundle.

    Args:
        folder: that holds them.
        weights: SHA-256 of the files of weights, by name.

    Raises:
        GraphError: they are missing, damaged, or belong to other weights.
    """
    try:
        fields = json.loads((folder / DESCRIPTION).read_bytes())
        contents = {file: (folder / file).read_bytes() for file in (ENCODER, IMAGES, STEP)}
        check = Check.from_json(fields["check"])
        if fields["weights"] != {file: weights[file] for file in WEIGHTS}:
            raise GraphError(f"the graphs in {folder} belong to other weights")
        damaged = [file for file, content in contents.items() if fields["graphs"][file] != _digest(content)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise GraphError(f"the graphs in {folder} are missing or damaged: {cause!r}") from cause
    if damaged:
        raise GraphError(f"the graphs in {folder} are damaged: the SHA-256 of {', '.join(damaged)} is another one")
    return GraphFiles(contents=contents, check=check)


def write_graph_files(folder: Path, files: GraphFiles, weights: Mapping[str, str]) -> None:
    """Write graphs, and last their description.

    Args:
        folder: to write to.
        files: the graphs.
        weights: SHA-256 of the files of weights, by name.
    """
    fields = {
        "weights": {file: weights[file] for file in WEIGHTS},
        "graphs": {file: _digest(content) for file, content in files.contents.items()},
        "check": asdict(files.check),
    }
    described = {DESCRIPTION: (json.dumps(fields, indent=1) + "\n").encode()}
    for file, content in {**files.contents, **described}.items():
        with replaced_file(folder / file) as written:
            written.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
