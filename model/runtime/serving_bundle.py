"""A bundle that serves: its encoder and the decoders of its versions run in ONNX Runtime, and torch is not imported.

Where ONNX Runtime is not installed, or the decoder is of a kind that only torch computes, torch serves.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from model.captioner import Captioner
from model.decoders.sizes import DecoderSizes
from model.errors import BundleError
from model.manifest import StoredDecoder, bundle_path, parse_manifest, parse_spec, parse_tensors, read_file
from model.memory.vectors import VectorSpace, space_name
from model.precision import restored, single
from model.runtime.graph import ENCODER_GRAPH
from model.store import replaced_file
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.runtime.graph import Graph
    from model.runtime.onnx_encoder import OnnxEncoder

logger = logging.getLogger(__name__)

EXPORT_S = 300


class ServingBundle:
    """A bundle in ONNX Runtime. Its captioners are safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Load the encoder and the decoder.

        Raises:
            BundleError: the bundle is damaged, of another format, or its parts do not fit.
        """
        from model.runtime.onnx_decoder import OnnxDecoder

        content = (path / "bundle.json").read_bytes()
        self.path, self._manifest = path, parse_manifest(content)
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            self.tokenizer = Tokenizer.from_json(self._manifest["tokenizer"])
            self.encoder = self._load_encoder()
            sizes = DecoderSizes(**self._manifest["decoder"])
            if sizes.vocabulary != self.tokenizer.size or sizes.features != self.encoder.feature_size:
                raise BundleError(
                    f"the parts of bundle {path} do not fit: the decoder expects {sizes.vocabulary} words and "
                    f"{sizes.features} features, got {self.tokenizer.size} and {self.encoder.feature_size}"
                )
            weights = restored(parse_tensors(self._read("decoder.safetensors")))
            self._decoder = OnnxDecoder(sizes, weights, stored=self._stored_graph)
            self._mean, self._scale = (np.asarray(weights[f"feature_{of}"], np.float32) for of in ("mean", "scale"))
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError(f"bundle {path} is damaged: {cause!r}") from cause

    @property
    def name(self) -> str:
        return str(self._manifest["name"])

    @property
    def version(self) -> str:
        """Name of the bundle as a model version, such as `scenes-1a2b3c4d`."""
        return f"{self.name}-{self.digest[:8]}"

    @property
    def runtime(self) -> str:
        """What computes the captions, for people."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, products of 8 bits"

    @cached_property
    def space(self) -> VectorSpace:
        """The vectors by which images are compared; takes a second at first."""
        replay = restored(parse_tensors(self._read("replay.safetensors")))["features"].astype(np.float16)
        return VectorSpace.of(self._mean, self._scale, replay, space_name(self.digest, self.encoder.fingerprint))

    def captioner(self) -> Captioner:
        """Return the captioner of the bundle itself."""
        return Captioner(self.encoder, self._decoder, self.tokenizer, self.version)

    def captioner_of(self, decoder: StoredDecoder) -> Captioner:
        """Return the captioner of a version: its decoder beside the bundle's encoder."""
        from model.runtime.onnx_decoder import OnnxDecoder

        network = OnnxDecoder(decoder.sizes, restored(decoder.weights))
        return Captioner(self.encoder, network, decoder.tokenizer, decoder.version)

    def _load_encoder(self) -> "OnnxEncoder":
        from model.runtime.onnx_encoder import OnnxEncoder

        spec, content = parse_spec(self._manifest["encoder"]), self._read("encoder.safetensors")
        weights = {name: single(values) for name, values in restored(parse_tensors(content)).items()}
        digest = self._manifest["files"]["encoder.safetensors"]
        graph = self.path / ENCODER_GRAPH
        if graph.is_file():
            try:
                return OnnxEncoder(spec, graph.read_bytes(), weights, digest)
            except BundleError as problem:
                logger.warning("graph of the encoder is made anew bundle=%s problem=%s", self.path, problem)
        return OnnxEncoder(spec, make_graph(self.path), weights, digest)

    def _stored_graph(self, name: str, graph: "Graph") -> bytes:
        """Return the bytes of one of the decoder's graphs, stored in the bundle."""
        file = self.path / f"decoder-{name}.onnx"
        content = file.read_bytes() if file.is_file() else None
        if content is None or not graph.is_written_in(content):
            content = graph.serialized()
            _keep(file, content)
        return content

    def _read(self, file: str) -> bytes:
        return read_file(self.path / file, self._manifest["files"][file])


LoadedBundle: TypeAlias = "ServingBundle | Bundle"


def begin_loading(name_or_path: str) -> "Future[LoadedBundle]":
    """Load a bundle in a thread; the result raises what `load_serving_bundle` raises."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="load-bundle")
    loading = threads.submit(load_serving_bundle, name_or_path)
    threads.shutdown(wait=False)
    return loading


def load_serving_bundle(name_or_path: str) -> LoadedBundle:
    """Load a bundle to serve with; in torch where ONNX Runtime cannot serve, which is logged.

    Raises:
        BundleError: the bundle is missing, damaged, of another format, or its parts do not fit.
    """
    path = bundle_path(name_or_path)
    reason = why_torch(path)
    if reason is None:
        return ServingBundle(path)
    logger.warning("torch serves bundle=%s reason=%s", path, reason)
    from model.bundle import load_bundle
    from model.torch_captioner import prefer_fast_products

    prefer_fast_products()
    bundle = replace(load_bundle(name_or_path), why_torch=reason)
    _ = bundle.encoder.network  # built now, not by the first requests at once
    return bundle


def why_torch(path: Path) -> str | None:
    """Return the reason why only torch can serve a bundle; None if ONNX Runtime can."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return "onnxruntime and onnx are not installed"
    from model.runtime.decoder_graph import is_supported

    sizes = parse_manifest((path / "bundle.json").read_bytes()).get("decoder", {})
    return None if is_supported(DecoderSizes(**sizes)) else f"only torch computes a decoder with {sizes}"


def make_graph(path: Path) -> bytes:
    """Return the graph of a bundle's encoder, made in a process of its own, because it needs torch.

    It is kept in the bundle's directory, if that can be written.

    Raises:
        BundleError: it could not be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ENCODER_GRAPH
        command = [sys.executable, "-m", "model.runtime.encoder_graph", str(path), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=EXPORT_S, check=False)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise BundleError(f"the graph of the encoder of {path} could not be made: {last}")
        content = file.read_bytes()
    _keep(path / ENCODER_GRAPH, content)
    return content


def _keep(file: Path, content: bytes) -> None:
    """Store a graph in the bundle; where that cannot be written, it is made again at the next start."""
    try:
        with replaced_file(file) as written:
            written.write(content)
    except OSError as problem:
        logger.info("graph not kept file=%s problem=%s", file, problem)
