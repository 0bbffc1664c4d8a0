import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from backend.demo.scenes import draw_scenes
from model.bundle import load_bundle
from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.export import WEIGHTS, evaluate_export, export_bundle
from model.manifest import BUILT_IN, bundle_version
from model.runtime.serving_bundle import ServingBundle
from model.training.losses import token_loss
from tests.factories import make_image, write_bundle


def test_the_scenes_bundle_in_8_bits_is_half_as_large_and_captions_nearly_the_same(tmp_path: Path) -> None:
    exported = export_bundle("scenes", "int8", tmp_path / "int8")

    before, after = load_bundle("scenes"), load_bundle(str(tmp_path / "int8"))
    pictures = [picture for picture, _ in draw_scenes(20, seed=77, size=112)]
    written = [
        [alternatives[0].text for alternatives in captioner.caption(captioner.encode(pictures), DecodingOptions())]
        for captioner in (before.captioner(), after.captioner())
    ]
    assert sum(first == second for first, second in zip(*written, strict=True)) >= 17
    for file in WEIGHTS:
        assert (tmp_path / "int8" / file).stat().st_size < 0.52 * (BUILT_IN / "scenes" / file).stat().st_size
    assert all(value.dtype == torch.float32 for value in after.decoder.parameters())
    assert exported.after_version == after.version != before.version
    assert after.record["exported"] == {"from": before.version, "precision": "int8"}
    assert exported.after_version in (tmp_path / "int8" / "MODEL_CARD.md").read_text("utf-8")


def test_a_directory_may_have_the_name_of_a_built_in_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "source")
    monkeypatch.chdir(tmp_path)

    exported = export_bundle("source", "int8", Path("photos"))

    assert exported.after_version == bundle_version("./photos") == load_bundle(Path("photos")).version
    assert exported.after_version != bundle_version("photos")
    assert ServingBundle(Path("photos")).version == exported.after_version  # raises if the graphs are not its own


def test_replay_in_8_bits_has_the_same_loss(tmp_path: Path) -> None:
    export_bundle("scenes", "int8", tmp_path / "int8")

    before, after = load_bundle("scenes"), load_bundle(str(tmp_path / "int8"))

    assert [example.caption for example in after.replay] == [example.caption for example in before.replay]
    assert {example.features.dtype for example in after.replay} == {torch.float16}
    losses = [token_loss(before.decoder, before.tokenizer, bundle.replay) for bundle in (before, after)]
    assert losses[1] == pytest.approx(losses[0], abs=0.005)


def test_the_shipped_bundle_keeps_its_version_and_half_precision_writes_its_very_weights(tmp_path: Path) -> None:
    export_bundle("scenes", "fp16", tmp_path / "fp16")

    assert bundle_version("scenes") == "scenes-b134182d"
    for file in WEIGHTS:
        assert (tmp_path / "fp16" / file).read_bytes() == (BUILT_IN / "scenes" / file).read_bytes()


def test_an_export_of_an_export_has_the_same_record_and_computes_the_same(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "source")
    export_bundle(str(source), "int8", tmp_path / "once")

    export_bundle(str(tmp_path / "once"), "int8", tmp_path / "twice")
    export_bundle(str(tmp_path / "twice"), "fp32", tmp_path / "whole")

    once, whole = load_bundle(str(tmp_path / "once")), load_bundle(str(tmp_path / "whole"))
    for name, value in once.decoder.state_dict().items():
        assert torch.allclose(whole.decoder.state_dict()[name], value, rtol=1e-5, atol=0)
    assert whole.record["exported"]["precision"] == "fp32"
    assert whole.record["trained_on"] == "nothing"


def test_a_bundle_whose_scales_are_missing_is_refused(tmp_path: Path) -> None:
    export_bundle(str(write_bundle(tmp_path / "source")), "int8", tmp_path / "int8")
    weights, manifest = tmp_path / "int8" / "decoder.safetensors", tmp_path / "int8" / "bundle.json"
    tensors = load(weights.read_bytes())
    del tensors["embedding.weight.scale"]
    content = save(tensors)
    weights.write_bytes(content)
    fields = json.loads(manifest.read_text("utf-8"))
    fields["files"][weights.name] = hashlib.sha256(content).hexdigest()
    manifest.write_text(json.dumps(fields), "utf-8")

    with pytest.raises(BundleError, match=r"its scales 'embedding\.weight\.scale' are missing"):
        load_bundle(str(tmp_path / "int8"))


def test_both_bundles_are_measured_on_the_same_images(tmp_path: Path) -> None:
    make_image("red").save(tmp_path / "red.png")
    exported = export_bundle(str(write_bundle(tmp_path / "source", seed=6)), "fp32", tmp_path / "fp32")
    images = [CaptionedImage(file=tmp_path / "red.png", captions=("a red square",))]

    evaluation = evaluate_export(exported, images, DecodingOptions(max_tokens=5))

    assert evaluation.before.version == exported.before_version
    assert evaluation.after.version == exported.after_version
    assert evaluation.before.metrics == evaluation.after.metrics
    assert "1 of 1 captions are the same" in evaluation.table()


def test_an_export_never_overwrites_a_bundle_and_an_unknown_precision_leaves_nothing(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "source")

    with pytest.raises(BundleError, match="holds a bundle already: choose another directory"):
        export_bundle(str(source), "int8", source)
    with pytest.raises(BundleError, match="precision must be one of"):
        export_bundle(str(source), "int4", tmp_path / "out")

    assert not (tmp_path / "out").exists()
