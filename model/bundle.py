"""Bundles as torch loads and saves them. A bundle is a directory; model/manifest.py says what is in it."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.decoders.build import build_decoder
from model.decoders.sizes import DecoderSizes
from model.errors import BundleError
from model.first_score import FirstScore
from model.manifest import (
    FORMAT,
    StoredDecoder,
    bundle_path,
    bundle_version,
    parse_manifest,
    parse_spec,
    read_first_score,
    read_temperature,
    read_tensors,
    write_manifest,
)
from model.memory.vectors import VectorSpace, space_name
from model.precision import restored, single, stored
from model.runtime.serving_bundle import why_torch
from model.tokenizer import Tokenizer
from model.torch_captioner import TorchCaptioner
from model.vision.encoder import Encoder, build_encoder, freeze
from model.vision.encoder_spec import EncoderSpec, fingerprint


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A captioner as it is shipped, before a project retrains it."""

    name: str
    digest: str
    """SHA-256 of bundle.json, which contains the SHA-256 of each other file."""
    encoder: Encoder
    decoder: CaptionDecoder
    tokenizer: Tokenizer
    replay: tuple[CaptionedFeatures, ...]
    """Captions of the original training data, kept so that retraining does not forget them."""
    record: Mapping[str, Any]
    """The options and the results of its training."""
    first_score: FirstScore | None = None
    """Scores its captions before people have judged them; None for a bundle that was made without."""
    temperature: float = 1.0
    """As in Captioner."""
    why_torch: str = ""
    """Reason for which torch serves it and not ONNX Runtime; empty in a training."""

    @property
    def runtime(self) -> str:
        """What computes the captions, for people."""
        return f"torch {torch.__version__}" + (f": {self.why_torch}" if self.why_torch else "")

    @cached_property
    def space(self) -> VectorSpace:
        """The vectors by which images are compared."""
        mean, scale = (values.numpy() for values in (self.decoder.feature_mean, self.decoder.feature_scale))
        features = np.array([image.features.numpy() for image in self.replay], np.float16)
        return VectorSpace.of(mean, scale, features, space_name(self.digest, self.encoder.fingerprint))

    @property
    def version(self) -> str:
        """Name of the bundle as a model version, such as `scenes-1a2b3c4d`."""
        return f"{self.name}-{self.digest[:8]}"

    def captioner(self) -> TorchCaptioner:
        return TorchCaptioner(self.encoder, self.decoder, self.tokenizer, self.version, self.temperature)

    def captioner_of(self, decoder: StoredDecoder) -> TorchCaptioner:
        """Return the captioner of a version: its decoder beside the bundle's encoder."""
        network = parse_decoder(vars(decoder.sizes), decoder.weights)
        return TorchCaptioner(self.encoder, network, decoder.tokenizer, decoder.version, self.temperature)


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Load a bundle, found by `bundle_path`, and check its files.

    Raises:
        BundleError: the bundle is missing, damaged, of another format, or its parts do not fit.
    """
    path = bundle_path(name_or_path)
    content = (path / "bundle.json").read_bytes()
    manifest = parse_manifest(content)
    tensors = {file: read_tensors(path / file, digest) for file, digest in manifest["files"].items()}
    try:
        tokenizer = Tokenizer.from_json(manifest["tokenizer"])
        encoder = parse_encoder(manifest["encoder"], tensors["encoder.safetensors"])
        decoder = parse_decoder(manifest["decoder"], tensors["decoder.safetensors"])
        features = torch.from_numpy(restored(tensors["replay.safetensors"])["features"]).half()
        feature_size = features.shape[2] if len(features) else encoder.feature_size
        if decoder.sizes.vocabulary != tokenizer.size or decoder.sizes.features != feature_size:
            raise BundleError(
                f"the parts of bundle {path} do not fit: the decoder expects {decoder.sizes.vocabulary} words and "
                f"{decoder.sizes.features} features, got {tokenizer.size} and {feature_size}"
            )
        replay = zip(features, manifest["replay_captions"], strict=True)
        return Bundle(
            name=manifest["name"],
            digest=hashlib.sha256(content).hexdigest(),
            encoder=encoder,
            decoder=decoder,
            tokenizer=tokenizer,
            replay=tuple(CaptionedFeatures(features=values, caption=caption) for values, caption in replay),
            record=manifest["record"],
            first_score=read_first_score(path, manifest),
            temperature=read_temperature(manifest),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise BundleError(f"bundle {path} is damaged: {cause!r}") from cause


def save_bundle(
    path: Path,
    *,
    name: str,
    encoder: Encoder,
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    replay: Sequence[CaptionedFeatures],
    record: Mapping[str, Any],
    precision: str = "fp16",
    temperature: float = 1.0,
) -> str:
    """Write a bundle and return its version.

    Args:
        replay: captions that retraining mixes with corrections; may be empty.
        record: options and results of the training, as JSON values.
        precision: of the weights, one of PRECISIONS. The replay has at most half precision.
        temperature: of the decoder, see Captioner.
    """
    regions = np.zeros((0, encoder.regions, encoder.feature_size), np.float32)
    features = np.stack([example.features.numpy() for example in replay]) if replay else regions
    contents = {
        "encoder.safetensors": save(stored(arrays(encoder.network), precision)),
        "decoder.safetensors": save(stored(arrays(decoder), precision)),
        "replay.safetensors": save(stored({"features": features}, "int8" if precision == "int8" else "fp16")),
    }
    manifest = {
        "format": FORMAT,
        "name": name,
        "temperature": temperature,
        "encoder": encoder.spec.to_json(),
        "decoder": vars(decoder.sizes),
        "tokenizer": tokenizer.to_json(),
        "replay_captions": [example.caption for example in replay],
        "record": dict(record),
    }
    write_manifest(path, manifest, contents)
    if why_torch(path) is None:
        from model.runtime.write_graphs import write_graphs

        write_graphs(path, load_bundle(path), path)
    return bundle_version(path)


def parse_encoder(fields: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Encoder:
    """Return the frozen encoder of a stored description and weights."""
    return StoredEncoder(parse_spec(fields), restored(weights))


BUILDING = threading.Lock()
"""Held while a stored encoder builds its network. It is no part of the encoder, because locks cannot be copied."""


class StoredEncoder(Encoder):
    """A stored encoder. Its network is built when it is first needed.

    A training reads stored features and needs no network. Importing torchvision would cost it 4 s.
    """

    def __init__(self, spec: EncoderSpec, weights: Mapping[str, NDArray[Any]]) -> None:
        torch.nn.Module.__init__(self)
        self.spec = spec
        self._weights = {name: single(values) for name, values in weights.items()}
        self._fingerprint = fingerprint(spec, self._weights)

    def __getattr__(self, name: str) -> Any:
        if name not in ("network", "feature_size", "regions"):
            return super().__getattr__(name)
        with BUILDING:  # several threads may need it first
            if "_weights" in self.__dict__:
                built = build_encoder(self.spec)
                load_strictly(built.network, self._weights)
                freeze(built)
                self.network, self.feature_size, self.regions = built.network, built.feature_size, built.regions
                del self._weights
        return self.__dict__[name] if name in self.__dict__ else super().__getattr__(name)


def parse_decoder(sizes: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> CaptionDecoder:
    """Return the decoder of stored sizes and weights, in evaluation mode."""
    decoder = build_decoder(DecoderSizes(**sizes))
    load_strictly(decoder, weights)
    return decoder.eval()


def load_strictly(network: torch.nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load weights of any precision into a float32 network.

    Raises:
        BundleError: an array is missing, unexpected or of another shape, or its scales are damaged.
    """
    try:
        network.load_state_dict({name: torch.from_numpy(values) for name, values in restored(weights).items()})
    except RuntimeError as cause:
        raise BundleError(f"stored weights do not fit {type(network).__name__}: {cause}") from cause


def arrays(network: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Return the weights of a network by name, on the CPU."""
    return {name: values.detach().cpu().contiguous().numpy() for name, values in network.state_dict().items()}
