"""The bundle that serves without torch, and what happens where its graphs are missing or wrong."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.bundle import load_bundle
from model.decoders.base import CaptionDecoder
from model.decoders.search import DecodingOptions
from model.errors import BundleError, GraphError
from model.manifest import bundle_path, parse_manifest
from model.registry import ModelRegistry
from model.runtime import serving_bundle
from model.runtime.graph_files import DESCRIPTION, ENCODER, IMAGES, STEP, read_graphs, write_graph_files
from model.runtime.onnx_decoder import OnnxDecoder
from model.runtime.serving_bundle import ServingBundle, load_serving_bundle
from model.store import Store
from tests.factories import make_captioner, make_image, write_bundle

FILES = (ENCODER, IMAGES, STEP, DESCRIPTION)

PICTURES = [make_image(color, size) for color in ("red", "navy", "white") for size in ((64, 48), (30, 90))]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_onnx_runtime_keeps_and_sends_nothing_about_its_use(bundle: Path, tmp_path: Path) -> None:
    silenced = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY"}  # ONNX Runtime is silent where CI is set
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if name not in silenced} | {"HOME": str(home)}
    home.mkdir()

    loading = "from model.runtime.serving_bundle import load_serving_bundle; load_serving_bundle(sys.argv[1])"
    subprocess.run([sys.executable, "-c", f"import sys; {loading}", str(bundle)], env=environment, check=True)

    assert [path for path in home.rglob("*") if "onnxruntime" in str(path)] == []


def test_its_features_fingerprint_and_vectors_are_those_of_torch(bundle: Path) -> None:
    ours, theirs = ServingBundle(bundle), load_bundle(str(bundle))

    features, expected = (made.captioner().encode(PICTURES) for made in (ours, theirs))

    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert ours.encoder.fingerprint == theirs.encoder.fingerprint
    assert ours.version == theirs.version
    assert ours.space.name == theirs.space.name
    np.testing.assert_allclose(ours.space.vectors(features), theirs.space.vectors(features), atol=2e-3)


@pytest.mark.parametrize("name", ["scenes", "photos"])
def test_the_shipped_bundles_carry_graphs_that_need_not_be_made_anew(name: str) -> None:
    assert ServingBundle(bundle_path(name)).runtime.startswith("ONNX Runtime")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "one bit", "of another bundle"])
def test_a_graph_that_is_missing_or_damaged_is_not_used(bundle: Path, file: str, damage: str) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[len(content) // 2] ^= 1
    changed = {
        "cut": bytes(content[: len(content) // 2]),
        "one bit": bytes(content),
        "of another bundle": (bundle_path("scenes") / file).read_bytes(),
    }
    (bundle / file).unlink()
    if damage in changed:
        (bundle / file).write_bytes(changed[damage])

    with pytest.raises(GraphError):
        ServingBundle(bundle)


def test_graphs_that_cannot_be_used_are_made_anew_and_kept(bundle: Path) -> None:
    expected = captions(ServingBundle(bundle))
    (bundle / ENCODER).write_bytes(b"nothing")

    loaded = load_serving_bundle(str(bundle))

    assert isinstance(loaded, ServingBundle)
    assert captions(loaded) == captions(ServingBundle(bundle)) == expected


def test_a_bundle_that_cannot_be_written_serves_all_the_same(bundle: Path) -> None:
    (bundle / ENCODER).unlink()
    (bundle / ENCODER).mkdir()

    assert load_serving_bundle(str(bundle)).runtime.startswith("ONNX Runtime")


def test_graphs_of_an_earlier_program_are_made_anew(bundle: Path) -> None:
    """What they compute is not what this program asks for, though no file is damaged."""
    files = read_graphs(bundle, weights_of(bundle))
    older = {**files.contents, STEP: files.contents[IMAGES]}
    write_graph_files(bundle, replace(files, contents=older), weights_of(bundle))

    with pytest.raises(GraphError, match="another version of this program"):
        ServingBundle(bundle)


def test_where_onnx_runtime_computes_something_else_torch_serves_and_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = read_graphs(bundle, weights_of(bundle))
    wrong = replace(files, check=replace(files.check, log_prob=files.check.log_prob - 50))
    write_graph_files(bundle, wrong, weights_of(bundle))
    monkeypatch.setattr(
        serving_bundle, "make_graphs", lambda path, folder: shutil.copytree(path, folder, dirs_exist_ok=True)
    )

    loaded = load_serving_bundle(str(bundle))

    assert loaded.runtime.startswith("torch ")
    assert "ONNX Runtime is off by" in loaded.runtime


def test_a_version_is_checked_by_what_torch_computed_when_it_was_published(bundle: Path, tmp_path: Path) -> None:
    candidate, serving = make_captioner(seed=3), ServingBundle(bundle)
    registry = ModelRegistry(Store(tmp_path / "store"), serving.version)
    parent = registry.serving(1)
    version = registry.publish(1, candidate, parent=parent, metrics={}, corrections=(), decision="better")
    decoder = registry.decoder(1, version.name)
    assert decoder.check is not None
    wrong = replace(decoder, check=replace(decoder.check, log_prob=decoder.check.log_prob - 50))

    assert isinstance(serving.captioner_of(decoder).decoder, OnnxDecoder)
    assert isinstance(serving.captioner_of(replace(decoder, check=None)).decoder, OnnxDecoder)
    assert isinstance(serving.captioner_of(wrong).decoder, CaptionDecoder)


def test_damaged_weights_are_refused(bundle: Path) -> None:
    (bundle / "decoder.safetensors").write_bytes(b"nothing")

    with pytest.raises(BundleError, match=r"decoder\.safetensors is damaged"):
        load_serving_bundle(str(bundle))


def test_without_onnx_runtime_torch_serves_and_says_why(bundle: Path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from model.runtime.serving_bundle import load_serving_bundle\n"
        f"print(load_serving_bundle({str(bundle)!r}).runtime)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("torch ")
    assert "onnxruntime and onnx are not installed" in done.stdout


def test_what_serves_and_the_jobs_that_do_not_train_import_no_torch(bundle: Path) -> None:
    program = (
        "import sys\n"
        "import backend.wsgi, backend.jobs, backend.images.backfill, backend.sync.refresh, backend.sync.pull\n"
        "import backend.sync.connected_projects, backend.doctor.examination, backend.cli, worker.__main__\n"
        "from PIL import Image\n"
        "from model.decoders.search import DecodingOptions\n"
        "from model.runtime.serving_bundle import load_serving_bundle\n"
        f"bundle = load_serving_bundle({str(bundle)!r})\n"
        "captioner = bundle.captioner()\n"
        "captioner.caption(captioner.encode([Image.new('RGB', (9, 9))]), DecodingOptions())\n"
        "bundle.space\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'torchvision', 'onnx')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout == "[]\n", done.stderr


def weights_of(bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of the bundle's files."""
    return dict(parse_manifest((bundle / "bundle.json").read_bytes())["files"])


def captions(bundle: ServingBundle) -> list[list[str]]:
    captioner = bundle.captioner()
    written = captioner.caption(captioner.encode(PICTURES), DecodingOptions(max_tokens=8))
    return [[caption.text for caption in of_picture] for of_picture in written]
