import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from model.bundle import load_bundle
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.manifest import bundle_version
from tests.factories import make_bundle, make_captioner, make_image, write_bundle


def test_a_saved_captioner_gives_the_same_captions_when_loaded(tmp_path: Path) -> None:
    image = make_image("green")

    loaded = make_bundle(tmp_path).captioner()

    fresh, options = make_captioner(), DecodingOptions(max_tokens=6)
    before = fresh.caption(fresh.encode([image]), options)[0][0]
    after = loaded.caption(loaded.encode([image]), options)[0][0]
    assert after.text == before.text
    assert after.log_prob == pytest.approx(before.log_prob, abs=0.05)  # stored in half precision


def test_the_version_names_the_content_and_needs_no_weights(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", seed=1)
    (tmp_path / "one" / "decoder.safetensors").unlink()

    assert bundle_version(str(tmp_path / "one")) == bundle.version
    assert bundle.version.startswith("tiny-")
    assert make_bundle(tmp_path / "two", seed=2).version != bundle.version
    assert make_bundle(tmp_path / "again", seed=1).version == bundle.version


def test_replay_comes_back_with_its_captions(tmp_path: Path) -> None:
    replay = make_bundle(tmp_path).replay

    assert len(replay) == 12
    assert replay[1].caption == "a green square"
    assert replay[1].features.dtype == torch.float16


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    weights = path / "decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    with pytest.raises(BundleError, match=r"decoder\.safetensors is damaged"):
        load_bundle(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    (path / "encoder.safetensors").unlink()

    with pytest.raises(BundleError, match=r"encoder\.safetensors cannot be read"):
        load_bundle(str(path))


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    manifest = json.loads((path / "bundle.json").read_text("utf-8"))
    manifest["tokenizer"]["words"].append("surplus")
    (path / "bundle.json").write_text(json.dumps(manifest), "utf-8")

    with pytest.raises(BundleError, match="do not fit: the decoder expects"):
        load_bundle(str(path))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 99, "name": "x"}', "[" * 100_000])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bundle.json").write_text(content, "utf-8")

    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(str(tmp_path))


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(BundleError, match="no bundle at 'senes': give a directory"):
        load_bundle("senes")


def test_threads_that_need_the_encoder_first_get_the_same_network(tmp_path: Path) -> None:
    encoder = make_bundle(tmp_path).encoder
    begin = threading.Barrier(6)

    def read(_thread: int) -> tuple[int, int]:
        begin.wait(30)
        return id(encoder.network), encoder.regions

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(read, range(6)))) == 1
