"""The description and the files of a bundle or a version, read without torch.

bundle.json          name, sizes, vocabulary, preprocessing, scores, training record, SHA-256 of each file
encoder.safetensors  decoder.safetensors  replay.safetensors (features of captions to replay, [N, P, D])
familiar.safetensors the images that it knows (model/first_score.py), in a bundle with `first_score`
*.onnx  runtime.json the networks without weights, for ONNX Runtime (model/runtime/graph_files.py)
MODEL_CARD.md        for people

Weights and replay are stored in a precision of `model/precision.py`; the arrays of a file show which one. No pickle is
loaded.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model.decoders.sizes import DecoderSizes
from model.errors import BundleError
from model.first_score import FamiliarImages, FirstScore
from model.precision import restored, stored
from model.runtime.check_caption import Check
from model.store import replaced_file
from model.tokenizer import Tokenizer
from model.vision.encoder_spec import EncoderSpec
from model.vision.images import Preprocessing

FORMAT = 2
FAMILIAR = "familiar.safetensors"
BUILT_IN = Path(__file__).parent / "bundles"


@dataclass(frozen=True, kw_only=True)
class StoredDecoder:
    """A decoder as it is stored."""

    version: str
    sizes: DecoderSizes
    weights: Mapping[str, NDArray[Any]]
    """In the precision in which they are stored."""
    tokenizer: Tokenizer
    check: Check | None = None
    """What torch computed when it was published; None for a version of an earlier program."""


def bundle_path(name_or_path: str | Path) -> Path:
    """Return the directory of a bundle.

    Args:
        name_or_path: name of a built-in bundle (`scenes`, `photos`), or a directory. A Path is always a directory, and
            so is a text such as `./photos`.

    Raises:
        BundleError: there is no bundle; the message lists the built-in ones.
    """
    names = sorted(file.parent.name for file in BUILT_IN.glob("*/bundle.json"))
    path = BUILT_IN / name_or_path if isinstance(name_or_path, str) and name_or_path in names else Path(name_or_path)
    if (path / "bundle.json").is_file():
        return path
    listed = ", ".join(names) or "none"
    raise BundleError(f"no bundle at {str(name_or_path)!r}: give a directory with bundle.json, or one of: {listed}")


def bundle_name(path: Path) -> str:
    """Return the name of the bundle in a directory."""
    return str(parse_manifest((path / "bundle.json").read_bytes())["name"])


def bundle_version(name_or_path: str | Path) -> str:
    """Return the version of a bundle without loading weights."""
    content = (bundle_path(name_or_path) / "bundle.json").read_bytes()
    return f"{parse_manifest(content)['name']}-{hashlib.sha256(content).hexdigest()[:8]}"


def write_manifest(path: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write the files of a bundle, and last its description, which makes the directory a bundle."""
    path.mkdir(parents=True, exist_ok=True)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    description = json.dumps({**manifest, "files": digests}, ensure_ascii=False, indent=1) + "\n"
    for file, content in {**contents, "bundle.json": description.encode()}.items():
        with replaced_file(path / file) as written:
            written.write(content)


def write_with_decoder(path: Path, base: Path, decoder: StoredDecoder, *, name: str, record: Mapping[str, Any]) -> None:
    """Write a bundle again with another decoder.

    Args:
        path: directory of the new bundle.
        base: directory of the bundle that has the encoder and the replay.
        decoder: to write, in half precision.
        name: of the new bundle.
        record: is added to that of the training.
    """
    manifest = parse_manifest((base / "bundle.json").read_bytes())
    contents = {file: read_file(base / file, digest) for file, digest in manifest["files"].items()}
    weights = save(stored(restored(decoder.weights), "fp16"))
    changed = {"name": name, "decoder": vars(decoder.sizes), "tokenizer": decoder.tokenizer.to_json()}
    changed["record"] = manifest["record"] | record
    write_manifest(path, manifest | changed, contents | {"decoder.safetensors": weights})


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
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise BundleError(f"bundle.json is damaged: {cause!r}") from cause
    return manifest


def read_first_score(path: Path, manifest: Mapping[str, Any]) -> FirstScore | None:
    """Return how the bundle in a directory scores its captions; None for a bundle that was made without.

    Raises:
        BundleError: a file is damaged.
        KeyError, TypeError, ValueError: its description is damaged.
    """
    if "first_score" not in manifest:
        return None
    arrays = read_tensors(path / FAMILIAR, manifest["files"][FAMILIAR])
    return FirstScore.from_json(manifest["first_score"], FamiliarImages.from_arrays(arrays))


def read_temperature(manifest: Mapping[str, Any]) -> float:
    """Return the decoder's temperature (see Captioner); 1 for a bundle that was made without.

    Raises:
        BundleError: it is no temperature.
    """
    temperature = manifest.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise BundleError(f"bundle.json is damaged: the temperature must be a number above 0, got {temperature!r}")
    return float(temperature)


def write_first_score(path: Path, first_score: FirstScore) -> None:
    """Add to a bundle how it scores its captions. Its digest, and so its version, changes."""
    manifest = parse_manifest((path / "bundle.json").read_bytes())
    files = manifest.pop("files")
    contents = {file: read_file(path / file, digest) for file, digest in files.items()}
    contents[FAMILIAR] = save(first_score.familiar.arrays())
    write_manifest(path, manifest | {"first_score": first_score.to_json()}, contents)


def read_tensors(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    """Return the stored arrays of a safetensors file; raises BundleError as `read_file` does."""
    return parse_tensors(read_file(path, digest))


def read_file(path: Path, digest: str) -> bytes:
    """Return the content of a bundle's file.

    Raises:
        BundleError: the file is missing, or its SHA-256 is another one.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise BundleError(f"bundle file {path} cannot be read: {cause}") from cause
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"bundle file {path} is damaged: its SHA-256 is not the one in bundle.json")
    return content


def parse_tensors(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file's bytes."""
    try:
        return dict(load(content))
    except SafetensorError as cause:
        raise BundleError(f"tensors cannot be read: {cause}") from cause


def parse_spec(fields: Mapping[str, Any]) -> EncoderSpec:
    """Return the stored description of an encoder."""
    preprocessing = fields["preprocessing"]
    return EncoderSpec(
        name=fields["name"],
        preprocessing=Preprocessing(
            size=preprocessing["size"], mean=tuple(preprocessing["mean"]), std=tuple(preprocessing["std"])
        ),
    )
