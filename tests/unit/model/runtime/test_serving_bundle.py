"""The bundle that serves without torch, and what happens where its graphs are missing or wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.bundle import load_bundle
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.manifest import bundle_path
from model.runtime.graph import ENCODER_GRAPH
from model.runtime.serving_bundle import ServingBundle, load_serving_bundle
from tests.factories import make_image, write_bundle

PICTURES = [make_image(color, size) for color in ("red", "navy", "white") for size in ((64, 48), (30, 90))]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_its_features_fingerprint_and_vectors_are_those_of_torch(bundle: Path) -> None:
    ours, theirs = ServingBundle(bundle), load_bundle(str(bundle))

    features, expected = (made.captioner().encode(PICTURES) for made in (ours, theirs))

    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert ours.encoder.fingerprint == theirs.encoder.fingerprint
    assert ours.version == theirs.version
    assert ours.space.name == theirs.space.name
    np.testing.assert_allclose(ours.space.vectors(features), theirs.space.vectors(features), atol=2e-3)


@pytest.mark.parametrize("name", ["scenes", "photos"])
def test_the_shipped_bundles_carry_their_graphs(name: str) -> None:
    files = {file.name for file in bundle_path(name).iterdir()}

    assert {ENCODER_GRAPH, "decoder-images.onnx", "decoder-step.onnx"} <= files


@pytest.mark.parametrize("name", ["scenes", "photos"])
def test_the_graphs_of_the_shipped_bundles_need_not_be_made_anew(name: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_path(name), tmp_path / name))
    before = {file: file.read_bytes() for file in copy.glob("*.onnx")}

    loaded = load_serving_bundle(str(copy))

    assert loaded.runtime.startswith("ONNX Runtime")
    assert {file: file.read_bytes() for file in copy.glob("*.onnx")} == before


@pytest.mark.parametrize("file", [ENCODER_GRAPH, "decoder-images.onnx", "decoder-step.onnx"])
@pytest.mark.parametrize("damage", ["missing", "cut", "of another bundle"])
def test_a_graph_that_is_missing_or_wrong_is_made_anew(bundle: Path, file: str, damage: str, tmp_path: Path) -> None:
    expected = captions(ServingBundle(bundle))
    good = (bundle / file).read_bytes()
    if damage == "missing":
        (bundle / file).unlink()
    elif damage == "cut":
        (bundle / file).write_bytes(good[: len(good) // 2])
    else:
        (bundle / file).write_bytes((bundle_path("scenes") / file).read_bytes())

    assert captions(ServingBundle(bundle)) == expected
    assert captions(ServingBundle(bundle)) == expected
    assert len((bundle / file).read_bytes()) == pytest.approx(len(good), abs=200)


def test_a_bundle_that_cannot_be_written_serves_all_the_same(bundle: Path) -> None:
    (bundle / ENCODER_GRAPH).unlink()
    (bundle / ENCODER_GRAPH).mkdir()

    assert captions(ServingBundle(bundle))


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
    ServingBundle(bundle)  # writes the graphs of the decoder
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


def captions(bundle: ServingBundle) -> list[list[str]]:
    captioner = bundle.captioner()
    written = captioner.caption(captioner.encode(PICTURES), DecodingOptions(max_tokens=8))
    return [[caption.text for caption in of_picture] for of_picture in written]
