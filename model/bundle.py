"""Bundles: everything that a captioner needs, in one directory of safetensors and JSON. No pickle is loaded.

bundle.json          name, sizes, vocabulary, preprocessing, training record, SHA-256 of each file
encoder.safetensors  decoder.safetensors  replay.safetensors (features of captions to replay, [N, P, D])
MODEL_CARD.md        for people

Weights and replay are stored in a precision of `model/precision.py`; the tensors of a file show which one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.captioned_features import CaptionedFeatures
from model.captioner import Captioner
from model.decoders import build_decoder
from model.decoders.base import CaptionDecoder, DecoderSizes
from model.errors import BundleError
from model.precision import restored, stored
from model.store import replaced_file
from model.tokenizer import Tokenizer
from model.vision.encoder import Encoder, EncoderSpec, build_encoder, freeze
from model.vision.images import Preprocessing

FORMAT = 2
BUILT_IN = Path(__file__).parent / "bundles"


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

    @property
    def version(self) -> str:
        """Name of the bundle as a model version, such as `scenes-1a2b3c4d`."""
        return f"{self.name}-{self.digest[:8]}"

    def captioner(self) -> Captioner:
        return Captioner(self.encoder, self.decoder, self.tokenizer, self.version)


def bundle_path(name_or_path: str) -> Path:
    """Return the directory of a built-in bundle (`scenes`, `photos`), or the given directory.

    Raises:
        BundleError: there is no bundle; the message lists the built-in ones.
    """
    for path in (BUILT_IN / name_or_path, Path(name_or_path)):
        if (path / "bundle.json").is_file():
            return path
    names = ", ".join(sorted(p.parent.name for p in BUILT_IN.glob("*/bundle.json"))) or "none"
    raise BundleError(f"no bundle at {name_or_path!r}: give a directory with bundle.json, or one of: {names}")


def bundle_version(name_or_path: str) -> str:
    """Return the version of a bundle without loading weights."""
    content = (bundle_path(name_or_path) / "bundle.json").read_bytes()
    return f"{parse_manifest(content)['name']}-{hashlib.sha256(content).hexdigest()[:8]}"


def load_bundle(name_or_path: str) -> Bundle:
    """Load a bundle and check its files.

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
        if decoder.sizes.vocabulary != tokenizer.size or decoder.sizes.features != encoder.feature_size:
            raise BundleError(
                f"the parts of bundle {path} do not fit: the decoder expects {decoder.sizes.vocabulary} words and "
                f"{decoder.sizes.features} features, got {tokenizer.size} and {encoder.feature_size}"
            )
        features = restored(tensors["replay.safetensors"])["features"].half()
        replay = zip(features, manifest["replay_captions"], strict=True)
        return Bundle(
            name=manifest["name"],
            digest=hashlib.sha256(content).hexdigest(),
            encoder=encoder,
            decoder=decoder,
            tokenizer=tokenizer,
            replay=tuple(CaptionedFeatures(features=values, caption=caption) for values, caption in replay),
            record=manifest["record"],
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
) -> str:
    """Write a bundle and return its version.

    Args:
        replay: captions that retraining mixes with corrections; may be empty.
        record: options and results of the training, as JSON values.
        precision: of the weights, one of PRECISIONS. The replay has at most half precision.
    """
    regions = torch.zeros(0, encoder.regions, encoder.feature_size)
    features = torch.stack([example.features for example in replay]) if replay else regions
    contents = {
        "encoder.safetensors": save(stored(encoder.network.state_dict(), precision)),
        "decoder.safetensors": save(stored(decoder.state_dict(), precision)),
        "replay.safetensors": save(stored({"features": features}, "int8" if precision == "int8" else "fp16")),
    }
    manifest = {
        "format": FORMAT,
        "name": name,
        "encoder": encoder.spec.to_json(),
        "decoder": vars(decoder.sizes),
        "tokenizer": tokenizer.to_json(),
        "replay_captions": [example.caption for example in replay],
        "record": dict(record),
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    path.mkdir(parents=True, exist_ok=True)
    # Written last, because it makes the directory a bundle.
    contents["bundle.json"] = (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode()
    for file, content in contents.items():
        with replaced_file(path / file) as written:
            written.write(content)
    return bundle_version(str(path))


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return bundle.json as a dictionary.

    Raises:
        BundleError: it is not JSON of our format.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        if manifest["format"] != FORMAT:
            raise BundleError(f"bundle.json has format {manifest['format']!r}, this program reads {FORMAT}")
        manifest["name"]
    except (ValueError, KeyError, TypeError) as cause:
        raise BundleError(f"bundle.json is damaged: {cause!r}") from cause
    return manifest


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Return the stored tensors of a safetensors file.

    Raises:
        BundleError: the file is missing, or its SHA-256 is another one.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise BundleError(f"bundle file {path} cannot be read: {cause}") from cause
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"bundle file {path} is damaged: its SHA-256 is not the one in bundle.json")
    return parse_tensors(content)


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file's bytes."""
    try:
        return dict(load(content))
    except SafetensorError as cause:
        raise BundleError(f"tensors cannot be read: {cause}") from cause


def parse_encoder(fields: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Encoder:
    """Return the frozen encoder of a stored description and weights."""
    preprocessing = fields["preprocessing"]
    spec = EncoderSpec(
        name=fields["name"],
        preprocessing=Preprocessing(
            size=preprocessing["size"], mean=tuple(preprocessing["mean"]), std=tuple(preprocessing["std"])
        ),
    )
    encoder = build_encoder(spec)
    load_strictly(encoder.network, weights)
    return freeze(encoder)


def parse_decoder(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> CaptionDecoder:
    """Return the decoder of stored sizes and weights, in evaluation mode."""
    decoder = build_decoder(DecoderSizes(**sizes))
    load_strictly(decoder, weights)
    return decoder.eval()


def load_strictly(network: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights of any precision into a float32 network.

    Raises:
        BundleError: a tensor is missing, unexpected or of another shape, or its scales are damaged.
    """
    try:
        network.load_state_dict(restored(weights))
    except RuntimeError as cause:
        raise BundleError(f"stored weights do not fit {type(network).__name__}: {cause}") from cause
