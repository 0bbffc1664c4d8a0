"""`captioner train` on generated pictures with a tiny encoder: it learns, measures and writes a bundle."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.bundle import Bundle, load_bundle
from model.caption_files.read import CaptionSource
from model.decoders.search import DecodingOptions
from model.errors import CaptionFileError, TrainingError
from model.progress import OnProgress, Progress, ignore_progress
from model.store import Store
from model.training.bundle_options import BundleOptions
from model.training.bundle_training import TrainedBundle, train_bundle
from model.training.checkpoint import FILE as CHECKPOINT
from model.training.examples import is_held_out
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from model.vision.augmentation import Augmentation
from model.vision.files import encode_images
from model.vision.images import decode_image
from model.vision.trainable_stages import ALL
from tests.factories import make_bundle, make_encoder
from tests.squares import in_own_words, write_squares

CAPTIONS = ("a {color} square .", "the square is {color}")
OPTIONS = BundleOptions(
    name="squares",
    hidden=32,
    taught_stages=0,
    min_count=1,
    replay=5,
    held_out_share=4,
    training=TrainingOptions(epochs=2, batch_size=16),
    self_critical=SelfCriticalOptions(epochs=1),
    decoding=DecodingOptions(max_tokens=10),
)


class PowerCutError(Exception):
    """Stands for a kill in these tests."""


def cut_power_after_training(progress: Progress) -> None:
    """Fail when all epochs are done and the held-out images are captioned."""
    if progress.phase == "caption images":
        raise PowerCutError


@pytest.fixture
def squares(tmp_path: Path) -> CaptionSource:
    return write_squares(tmp_path, 60, *CAPTIONS)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """A bundle that describes squares well."""
    folder = tmp_path_factory.mktemp("taught")
    thorough = TrainingOptions(
        epochs=20, batch_size=4, learning_rate=4e-3, patience=20, dropout=0.0, label_smoothing=0.0
    )
    return train(write_squares(folder, 60, *CAPTIONS), folder / "out", options=replace(OPTIONS, training=thorough))


def train(
    source: CaptionSource,
    out: Path,
    *,
    held_out: CaptionSource | None = None,
    features: Store | None = None,
    strict: bool = False,
    options: BundleOptions = OPTIONS,
    on_progress: OnProgress = ignore_progress,
) -> TrainedBundle:
    encoder = make_encoder()
    weights = source.images.parent / "encoder.pth"
    torch.save(encoder.network.state_dict(), weights)
    trained = train_bundle(
        out,
        train=source,
        held_out=held_out,
        encoder=encoder.spec,
        weights=weights,
        options=options,
        features=features,
        strict=strict,
        on_progress=on_progress,
    )
    assert trained is not None
    return trained


@pytest.fixture
def base(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "base")


def fine_tune(
    source: CaptionSource,
    out: Path,
    base: Bundle,
    *,
    taught_stages: int | None = 0,
    min_count: int = 2,
    epochs: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> TrainedBundle:
    options = replace(
        OPTIONS,
        taught_stages=taught_stages,
        min_count=min_count,
        training=TrainingOptions(
            epochs=epochs, batch_size=8, learning_rate=4e-3, encoder_learning_rate=1e-4, dropout=0.0, warmup_steps=5
        ),
        self_critical=SelfCriticalOptions(epochs=0),
    )
    trained = train_bundle(out, train=source, base=base, options=options, on_progress=on_progress)
    assert trained is not None
    return trained


def held_out_losses(trained: TrainedBundle) -> list[float]:
    return [epoch["held_out_loss"] for epoch in trained.record["training"]["epochs"]]


def test_training_learns_and_writes_a_bundle_that_captions(taught: TrainedBundle) -> None:
    assert min(held_out_losses(taught)) < taught.record["training"]["untrained_loss"] / 3
    assert taught.evaluation.metrics.bleu_1 > 0.9
    assert taught.comparison is None
    bundle = load_bundle(str(taught.path))
    assert bundle.version == taught.version
    captioner = bundle.captioner()
    captions = captioner.caption(captioner.encode([Image.new("RGB", (90, 30), "blue")]), OPTIONS.decoding)
    assert captions[0][0].text in {"a blue square.", "the square is blue"}


def test_a_small_encoder_is_trained_from_random_weights(squares: CaptionSource, tmp_path: Path) -> None:
    thorough = TrainingOptions(
        epochs=25,
        batch_size=32,
        learning_rate=1e-2,
        encoder_learning_rate=2e-3,
        encoder_after=0,
        patience=25,
        dropout=0,
    )
    options = replace(
        OPTIONS, training=thorough, taught_stages=ALL, augmentation=Augmentation(colour=0, rotation=10), replay=8
    )

    trained = train_bundle(tmp_path / "out", train=squares, encoder=make_encoder().spec, weights=None, options=options)

    assert trained is not None
    assert min(held_out_losses(trained)) < trained.record["training"]["untrained_loss"] / 3
    bundle = load_bundle(str(tmp_path / "out"))
    assert trained.record["encoder_fingerprint"] == bundle.encoder.fingerprint
    captioner = bundle.captioner()
    written = captioner.caption(captioner.encode([Image.new("RGB", (9, 9), "blue")]), OPTIONS.decoding)
    assert "blue" in written[0][0].text


def test_the_bundle_records_its_training(squares: CaptionSource, tmp_path: Path) -> None:
    trained = train(squares, tmp_path / "out")

    bundle = load_bundle(str(trained.path))
    assert bundle.record["train_images"] + bundle.record["held_out_images"] == 60
    assert bundle.record["held_out_metrics"]["bleu_1"] == trained.evaluation.metrics.bleu_1
    assert bundle.record["encoder_fingerprint"] == bundle.encoder.fingerprint
    assert json.loads(json.dumps(bundle.record, allow_nan=False)) == bundle.record
    assert trained.version in (trained.path / "MODEL_CARD.md").read_text("utf-8")


def test_the_replay_has_the_features_of_the_bundles_encoder(squares: CaptionSource, tmp_path: Path) -> None:
    train(squares, tmp_path / "out")

    bundle = load_bundle(str(tmp_path / "out"))
    pictures = [decode_image(file.read_bytes()) for file in squares.images.iterdir()]
    features_of_images = encode_images(bundle.encoder, pictures)
    assert len(bundle.replay) == 5
    for example in bundle.replay:
        assert np.abs(features_of_images - example.features.numpy()).max(axis=(1, 2)).min() < 1e-2
        assert example.caption.startswith(("a ", "the "))


def test_the_same_seed_gives_the_same_bundle(squares: CaptionSource, tmp_path: Path) -> None:
    first, second = train(squares, tmp_path / "one"), train(squares, tmp_path / "two")

    assert held_out_losses(first) == held_out_losses(second)
    single, two = load_bundle(str(first.path)), load_bundle(str(second.path))
    assert all(torch.equal(a, b) for a, b in zip(single.decoder.parameters(), two.decoder.parameters(), strict=True))


def test_features_are_computed_once_for_many_trainings(squares: CaptionSource, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = train(squares, tmp_path / "one", features=store)
    before = {path: store.read(path) for path in store.list()}

    second = train(squares, tmp_path / "two", features=store)

    learned = 60 - first.record["held_out_images"]
    assert len(before) == 60 + (OPTIONS.views - 1) * learned
    assert {path: store.read(path) for path in store.list()} == before
    assert held_out_losses(second) == held_out_losses(first)


def test_an_image_is_held_out_by_its_content_alone() -> None:
    assert is_held_out("00000004" + "f" * 56, 4)
    assert not is_held_out("00000005" + "f" * 56, 4)
    assert not is_held_out("0000000e" + "f" * 56, 10)


def test_a_held_out_image_is_not_learned_from_under_another_name(squares: CaptionSource, tmp_path: Path) -> None:
    shutil.copy(squares.images / "0.png", squares.images / "copy.png")
    (tmp_path / "held_out.csv").write_text("image,caption\ncopy.png,a red square\n1.png,a green square\n")
    held_out = CaptionSource(captions=tmp_path / "held_out.csv", images=squares.images)

    trained = train(squares, tmp_path / "out", held_out=held_out)

    assert trained.left_out.counts() == {"training images that are held out too": 2}
    assert (trained.record["train_images"], trained.record["held_out_images"]) == (58, 2)


def test_unreadable_images_are_left_out_and_counted(squares: CaptionSource, tmp_path: Path) -> None:
    (squares.images / "7.png").write_text("no picture")
    (squares.images / "8.png").unlink()

    trained = train(squares, tmp_path / "out")

    assert trained.left_out.counts() == {"missing images": 1, "unreadable images": 1}
    assert "7.png: not an image" in trained.left_out.summary()


@pytest.mark.parametrize("damage", ["no picture", None])
def test_strict_leaves_nothing_out_but_stops(squares: CaptionSource, tmp_path: Path, damage: str | None) -> None:
    if damage is None:
        (squares.images / "7.png").unlink()
    else:
        (squares.images / "7.png").write_text(damage)

    with pytest.raises(CaptionFileError, match=r"left out: .*7\.png"):
        train(squares, tmp_path / "out", strict=True)

    assert not (tmp_path / "out").exists()


def test_a_bundle_is_never_overwritten(squares: CaptionSource, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle.json").write_text("{}")

    with pytest.raises(TrainingError, match="holds a bundle already: choose another directory"):
        train(squares, tmp_path / "out")


def test_the_training_log_equals_the_bundles_record_and_the_checkpoint_is_removed(
    squares: CaptionSource, tmp_path: Path
) -> None:
    trained = train(squares, tmp_path / "out")

    log = json.loads((tmp_path / "out" / "training.json").read_text("utf-8"))
    assert log["epochs"] == trained.record["training"]["epochs"]
    assert [(epoch["phase"], epoch["epoch"]) for epoch in log["epochs"]] == [
        ("captions", 1),
        ("captions", 2),
        ("rewards", 1),
    ]
    assert (tmp_path / "out" / "curves.png").is_file()
    assert not (tmp_path / "out" / CHECKPOINT).exists()


def test_an_interrupted_training_does_not_resume_with_other_options_or_data(
    squares: CaptionSource, tmp_path: Path
) -> None:
    with pytest.raises(PowerCutError):
        train(squares, tmp_path / "out", on_progress=cut_power_after_training)
    before = (tmp_path / "out" / CHECKPOINT).read_bytes()
    captions = squares.captions.read_text()

    with pytest.raises(TrainingError, match=r"training\.epochs was 2, is 3;"):
        train(squares, tmp_path / "out", options=replace(OPTIONS, training=TrainingOptions(epochs=3, batch_size=16)))
    squares.captions.write_text(captions.replace("the square is red", "the square is blue"))
    with pytest.raises(TrainingError, match="training images and captions was "):
        train(squares, tmp_path / "out")

    assert (tmp_path / "out" / CHECKPOINT).read_bytes() == before
    squares.captions.write_text(captions)
    reports: list[Progress] = []
    train(squares, tmp_path / "out", on_progress=reports.append)
    assert Progress(phase="resume training", done=1, total=1, note="rewards: goes on after epoch 1") in reports


def test_too_few_images_say_how_many_there_were(squares: CaptionSource, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("image,caption\n1.png,a green square\n")
    single = CaptionSource(captions=tmp_path / "one.csv", images=squares.images)

    with pytest.raises(TrainingError, match=r"images to learn from and images to measure on, got [01] and [01]"):
        train(single, tmp_path / "out")


def test_a_new_decoder_cannot_begin_with_rewards(squares: CaptionSource, tmp_path: Path) -> None:
    options = replace(OPTIONS, training=replace(OPTIONS.training, epochs=0))

    with pytest.raises(TrainingError, match="a new decoder must be trained for 1 epoch or more, got 0"):
        train(squares, tmp_path / "out", options=options)


@pytest.mark.parametrize("taught_stages", [0, None])
def test_further_training_teaches_new_words_and_improves_captions_of_unseen_pictures(
    squares: CaptionSource, tmp_path: Path, taught: TrainedBundle, taught_stages: int | None
) -> None:
    base = load_bundle(str(taught.path))

    trained = fine_tune(in_own_words(squares), tmp_path / "out", base, taught_stages=taught_stages, epochs=4)

    assert trained.comparison is not None
    before, after = trained.comparison.before.metrics, trained.comparison.after.metrics
    assert before.images == after.images == trained.record["held_out_images"]
    assert after.cider_d > before.cider_d
    assert after.bleu_4 > before.bleu_4
    captioner = load_bundle(str(trained.path)).captioner()
    captions = captioner.caption(captioner.encode([Image.new("RGB", (32, 32), "red")]), OPTIONS.decoding)
    assert captions[0][0].text == "behold a crimson tile"
    assert (captioner.encoder.fingerprint == base.encoder.fingerprint) == (taught_stages == 0)


def test_further_training_does_not_change_the_base_bundle(squares: CaptionSource, tmp_path: Path, base: Bundle) -> None:
    files = {file: file.read_bytes() for file in (tmp_path / "base").iterdir()}
    weights = {name: value.clone() for name, value in base.decoder.state_dict().items()}

    fine_tune(in_own_words(squares), tmp_path / "out", base, taught_stages=None)

    assert {file: file.read_bytes() for file in (tmp_path / "base").iterdir()} == files
    assert base.decoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in base.decoder.state_dict().items())


def test_the_vocabulary_gets_words_that_are_frequent_enough_and_ids_stay(
    squares: CaptionSource, tmp_path: Path, base: Bundle
) -> None:
    trained = fine_tune(in_own_words(squares, rare="vermilion"), tmp_path / "out", base, min_count=2)

    words = load_bundle(str(trained.path)).tokenizer.words
    assert words[: len(base.tokenizer.words)] == base.tokenizer.words
    assert set(words[len(base.tokenizer.words) :]) == {"behold", "tile", "crimson", "jade", "navy"}


def test_the_bundle_and_its_card_name_the_base_bundle_and_its_scores(
    squares: CaptionSource, tmp_path: Path, base: Bundle
) -> None:
    trained = fine_tune(in_own_words(squares), tmp_path / "out", base)

    start = load_bundle(str(trained.path)).record["started_from"]
    assert trained.comparison is not None
    assert (start["version"], start["digest"]) == (base.version, base.digest)
    assert start["held_out_metrics"]["cider_d"] == trained.comparison.before.metrics.cider_d
    card = (trained.path / "MODEL_CARD.md").read_text("utf-8")
    assert f"It went on from {base.version}" in card
    assert "| metric | before | after |" in card


def test_an_interrupted_training_resumes_only_with_the_same_base_bundle(
    squares: CaptionSource, tmp_path: Path, base: Bundle
) -> None:
    own, other = in_own_words(squares), replace(base, digest="0" * 64)
    with pytest.raises(PowerCutError):
        fine_tune(own, tmp_path / "out", base, on_progress=cut_power_after_training)

    with pytest.raises(TrainingError, match=f"bundle to go on from was tiny {base.digest[:12]}, is tiny 000000000000;"):
        fine_tune(own, tmp_path / "out", other)

    reports: list[Progress] = []
    fine_tune(own, tmp_path / "out", base, on_progress=reports.append)
    assert Progress(phase="resume training", done=1, total=1, note="captions: goes on after epoch 1") in reports


@pytest.mark.parametrize("changes", [{"hidden": 0}, {"min_count": 0}, {"replay": -1}, {"held_out_share": 1}])
def test_options_out_of_range_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="must be"):
        BundleOptions(**changes)  # type: ignore[arg-type]  # mypy sees the other fields' types too
