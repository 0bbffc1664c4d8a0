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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.captioner import Captioner
from model.decoders.sizes import DecoderSizes
from model.errors import BundleError, GraphError
from model.manifest import (
    StoredDecoder,
    bundle_path,
    parse_manifest,
    parse_spec,
    parse_tensors,
    read_file,
    read_first_score,
    read_temperature,
)
from model.memory.vectors import VectorSpace, space_name
from model.precision import restored, single
from model.runtime.check_caption import TOLERANCE, check_features, check_picture
from model.runtime.graph_files import DESCRIPTION, ENCODER, IMAGES, STEP, read_graphs
from model.store import replaced_file
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.runtime.onnx_decoder import OnnxDecoder

logger = logging.getLogger(__name__)

EXPORT_S = 300


class ServingBundle:
    """A bundle in ONNX Runtime. Its captioners are safe to share between threads."""

    def __init__(self, path: Path, graphs: Path | None = None) -> None:
        """Load the encoder and the decoder, and check what they compute.

        Args:
            path: directory of the bundle.
            graphs: directory of the graphs; None: that of the bundle.

        Raises:
            GraphError: the graphs are missing, damaged, out of date, or compute something else than torch.
            BundleError: the bundle is damaged, of another format, or its parts do not fit.
        """
        from model.runtime.onnx_decoder import OnnxDecoder
        from model.runtime.onnx_encoder import OnnxEncoder

        content = (path / "bundle.json").read_bytes()
        self.path, self._manifest = path, parse_manifest(content)
        self.digest = hashlib.sha256(content).hexdigest()
        files = read_graphs(graphs or path, self._manifest["files"])
        try:
            self.tokenizer = Tokenizer.from_json(self._manifest["tokenizer"])
            weights = {name: single(values) for name, values in self._read_weights("encoder.safetensors").items()}
            self.encoder = OnnxEncoder(parse_spec(self._manifest["encoder"]), files.contents[ENCODER], weights)
            sizes = DecoderSizes(**self._manifest["decoder"])
            if sizes.vocabulary != self.tokenizer.size or sizes.features != self.encoder.feature_size:
                raise BundleError(
                    f"the parts of bundle {path} do not fit: the decoder expects {sizes.vocabulary} words and "
                    f"{sizes.features} features, got {self.tokenizer.size} and {self.encoder.feature_size}"
                )
            weights = self._read_weights("decoder.safetensors")
            self._decoder = OnnxDecoder(sizes, weights, stored=files.of_decoder)
            self.first_score = read_first_score(path, self._manifest)
            self._temperature = read_temperature(self._manifest)
            self._mean, self._scale = (np.asarray(weights[f"feature_{of}"], np.float32) for of in ("mean", "scale"))
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError(f"bundle {path} is damaged: {cause!r}") from cause
        picture = self.captioner().encode([check_picture()])[0]
        if (deviation := files.check.deviation(self._decoder, picture)) > TOLERANCE:
            raise GraphError(f"with the graphs of {path} ONNX Runtime is off by {deviation:.2f} nats a token")

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
        replay = self._read_weights("replay.safetensors")["features"].astype(np.float16)
        return VectorSpace.of(self._mean, self._scale, replay, space_name(self.digest, self.encoder.fingerprint))

    def captioner(self) -> Captioner:
        """Return the captioner of the bundle itself."""
        return Captioner(self.encoder, self._decoder, self.tokenizer, self.version, self._temperature)

    def captioner_of(self, decoder: StoredDecoder) -> Captioner:
        """Return the captioner of a version: its decoder beside the bundle's encoder.

        Torch computes it where ONNX Runtime cannot, or computes something else; that is logged.
        """
        try:
            network = self._load_decoder(decoder)
        except GraphError as problem:
            logger.warning("torch computes version=%s reason=%s", decoder.version, problem)
            from model.bundle import load_bundle

            return load_bundle(self.path).captioner_of(decoder)
        return Captioner(self.encoder, network, decoder.tokenizer, decoder.version, self._temperature)

    def _load_decoder(self, decoder: StoredDecoder) -> "OnnxDecoder":
        """Return the decoder of a version; raises GraphError if ONNX Runtime computes something else than torch."""
        from model.runtime.onnx_decoder import OnnxDecoder

        weights = restored(decoder.weights)
        network = OnnxDecoder(decoder.sizes, weights)
        if decoder.check is not None:
            features = check_features(weights["feature_mean"], weights["feature_scale"])
            if (deviation := decoder.check.deviation(network, features)) > TOLERANCE:
                raise GraphError(f"ONNX Runtime is off by {deviation:.2f} nats a token")
        return network

    def _read_weights(self, file: str) -> dict[str, NDArray[Any]]:
        return restored(parse_tensors(read_file(self.path / file, self._manifest["files"][file])))


LoadedBundle: TypeAlias = "ServingBundle | Bundle"


def begin_loading(name_or_path: str) -> "Future[LoadedBundle]":
    """Load a bundle in a thread; the result raises what `load_serving_bundle` raises."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="load-bundle")
    loading = threads.submit(load_serving_bundle, name_or_path)
    threads.shutdown(wait=False)
    return loading


def load_serving_bundle(name_or_path: str | Path) -> LoadedBundle:
    """Load a bundle to serve with; in torch where ONNX Runtime cannot serve, which is logged.

    Raises:
        BundleError: the bundle is missing, damaged, of another format, or its parts do not fit.
    """
    path = bundle_path(name_or_path)
    reason = why_torch(path)
    if reason is None:
        try:
            return _load_with_graphs(path)
        except GraphError as problem:
            reason = str(problem)
    logger.warning("torch serves bundle=%s reason=%s", path, reason)
    from model.bundle import load_bundle
    from model.torch_captioner import prefer_fast_products

    prefer_fast_products()
    bundle = replace(load_bundle(path), why_torch=reason)
    _ = bundle.encoder.network  # built now, not by the first request
    return bundle


def _load_with_graphs(path: Path) -> ServingBundle:
    """Load a bundle; graphs that cannot be used are made anew, and kept if the bundle can be written.

    Raises:
        GraphError: ONNX Runtime cannot use the new graphs either.
    """
    try:
        return ServingBundle(path)
    except GraphError as problem:
        logger.warning("graphs are made anew bundle=%s problem=%s", path, problem)
    with tempfile.TemporaryDirectory() as folder:
        make_graphs(path, Path(folder))
        bundle = ServingBundle(path, Path(folder))
        try:
            for file in (ENCODER, IMAGES, STEP, DESCRIPTION):
                with replaced_file(path / file) as written:
                    written.write((Path(folder) / file).read_bytes())
        except OSError as problem:  # they are made again at the next start
            logger.warning("graphs not kept bundle=%s problem=%s", path, problem)
    return bundle


def why_torch(path: Path) -> str | None:
    """Return the reason why only torch can serve a bundle; None if ONNX Runtime can."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return "onnxruntime and onnx are not installed"
    from model.runtime.decoder_graph import is_supported

    sizes = parse_manifest((path / "bundle.json").read_bytes()).get("decoder", {})
    return None if is_supported(DecoderSizes(**sizes)) else f"only torch computes a decoder with {sizes}"


def make_graphs(path: Path, folder: Path) -> None:
    """Write the graphs of a bundle into a folder, in a process of its own, because that needs torch.

    Raises:
        GraphError: they could not be made.
    """
    command = [sys.executable, "-m", "model.runtime.write_graphs", str(path.absolute()), str(folder)]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=EXPORT_S, check=True)
    except subprocess.TimeoutExpired as cause:
        raise GraphError(f"the graphs of {path} were not made within {EXPORT_S} s") from cause
    except subprocess.CalledProcessError as cause:
        reason = cause.stderr.strip().rpartition("\n")[2]
        raise GraphError(f"the graphs of {path} could not be made: {reason}") from cause
