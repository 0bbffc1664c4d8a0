"""`captioner train` trains every kind of network on a few pictures, and its bundle can be loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.bundle import load_bundle
from model.caption_files.read import CaptionSource
from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import TrainedBundle, train_bundle
from model.training.losses import token_loss
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import OPTIMIZERS, TrainingOptions
from model.vision.files import encode_files
from tests.factories import make_image

LEARNED = ("red", "green", "blue", "yellow", "black", "white")
HELD_OUT = ("purple", "orange")

ENCODERS = (
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "vgg16",
    "squeezenet1_1",
    "efficientnet_b0",
    "convnext_atto",
    "scene_cnn",
)
DECODERS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "gru": {"cell": "gru"},
    "lstm": {},
    "peephole": {"cell": "peephole"},
    "no attention": {"attention": False},
    "stacked": {"layers": 2},
    "residual": {"layers": 3, "residual": True},
    "recurrent regions": {"recurrent_regions": True},
    "transformer": {"cell": "transformer", "layers": 2},
    "all at once": {"cell": "gru", "layers": 2, "attention": False, "recurrent_regions": True, "residual": True},
}
OPTIONS = BundleOptions(
    hidden=16,
    layers=1,
    taught_stages=0,
    views=1,
    min_count=1,
    replay=2,
    training=TrainingOptions(epochs=1, batch_size=12, learning_rate=1e-2),
    self_critical=SelfCriticalOptions(epochs=0),
    decoding=DecodingOptions(max_tokens=5),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of pictures of one colour each, with two captions of each."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["image,caption"]
    for color in (*LEARNED, *HELD_OUT):
        make_image(color).save(folder / f"{color}.png")
        rows += [f"{color}.png,a {color} picture", f"{color}.png,it is {color}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def train(
    pictures: Path, out: Path, options: BundleOptions, *, encoder: str = "scene_cnn", size: int = 32
) -> TrainedBundle:
    (out / "learned.txt").write_text("\n".join(f"{color}.png" for color in LEARNED))
    (out / "held-out.txt").write_text("\n".join(f"{color}.png" for color in HELD_OUT))
    learned, held_out = (
        CaptionSource(captions=pictures / "captions.csv", images=pictures, names=out / names)
        for names in ("learned.txt", "held-out.txt")
    )
    spec = imagenet_encoder(encoder, size)
    trained = train_bundle(out / "bundle", train=learned, held_out=held_out, encoder=spec, options=options)
    assert trained is not None
    return trained


def loss_of_the_loaded(trained: TrainedBundle, pictures: Path) -> float:
    """Return the held-out loss of the decoder in the bundle, on features of the encoder in it."""
    bundle = load_bundle(str(trained.path))
    files = [pictures / f"{color}.png" for color in HELD_OUT]
    examples = [
        CaptionedFeatures(features=torch.from_numpy(encoded.features), caption=text)
        for color, encoded in zip(HELD_OUT, encode_files(bundle.encoder, files), strict=True)
        for text in (f"a {color} picture", f"it is {color}")
        if encoded.features is not None
    ]
    return token_loss(bundle.decoder, bundle.tokenizer, examples)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_trains_a_bundle_and_comes_back_from_it(encoder: str, pictures: Path, tmp_path: Path) -> None:
    trained = train(pictures, tmp_path, OPTIONS, encoder=encoder, size=64)

    bundle = load_bundle(str(trained.path))
    assert bundle.encoder.spec.name == encoder
    assert bundle.encoder.fingerprint == trained.record["encoder_fingerprint"]
    assert bundle.encoder.feature_size == bundle.decoder.sizes.features
    assert len(bundle.replay) == OPTIONS.replay
    assert trained.evaluation.metrics.images == len(HELD_OUT)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_trains_a_bundle_and_comes_back_from_it(kind: str, pictures: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, **DECODERS[kind])

    trained = train(pictures, tmp_path, options)

    record = trained.record["training"]
    assert record["epochs"][0]["held_out_loss"] < record["untrained_loss"]
    assert loss_of_the_loaded(trained, pictures) == pytest.approx(record["epochs"][0]["held_out_loss"], abs=2e-3)
    sizes = load_bundle(str(trained.path)).decoder.sizes
    for name in ("cell", "layers", "recurrent_regions", "residual"):
        assert getattr(sizes, name) == getattr(options, name)
    assert bool(sizes.attention) == options.attention


@pytest.mark.parametrize("kind", ["rnn", "stacked", "transformer"])
def test_every_kind_of_decoder_is_rewarded_on_the_same_walk(kind: str, pictures: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, self_critical=SelfCriticalOptions(epochs=1, samples=2), **DECODERS[kind])

    trained = train(pictures, tmp_path, options)

    assert [epoch["phase"] for epoch in trained.record["training"]["epochs"]] == ["captions", "rewards"]


def test_every_optimizer_trains_a_bundle_in_its_own_way(pictures: Path, tmp_path: Path) -> None:
    losses = {}
    for optimizer in OPTIMIZERS:
        (tmp_path / optimizer).mkdir()
        options = replace(OPTIONS, training=replace(OPTIONS.training, optimizer=optimizer))
        record = train(pictures, tmp_path / optimizer, options).record["training"]
        assert record["epochs"][0]["held_out_loss"] < record["untrained_loss"]
        losses[optimizer] = record["epochs"][0]["held_out_loss"]

    assert len(set(losses.values())) == len(OPTIMIZERS), losses
