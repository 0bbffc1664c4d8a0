"""`captioner evaluate --folds` on generated pictures with a tiny encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.caption_files.read import CaptionSource, LeftOut
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.metrics.scores import measure
from model.progress import Progress
from model.store import Store
from model.training import cross_validation
from model.training.bundle_options import BundleOptions
from model.training.cross_validation import CrossValidation, Fold, cross_validate, fold_of
from model.training.examples import CaptionedExample, is_held_out
from model.training.fitting import fit_captions
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from tests.factories import make_encoder
from tests.squares import write_squares

OPTIONS = BundleOptions(
    hidden=16,
    layers=1,
    taught_stages=0,
    views=1,
    min_count=1,
    training=TrainingOptions(epochs=1, batch_size=16),
    self_critical=SelfCriticalOptions(epochs=0),
    decoding=DecodingOptions(beam_size=1, max_tokens=5),
)


@pytest.fixture
def squares(tmp_path: Path) -> CaptionSource:
    return write_squares(tmp_path, 30, "a {color} square", "one {color} square")


def validate(source: CaptionSource, folds: int, options: BundleOptions = OPTIONS, **more: Any) -> CrossValidation:
    encoder = make_encoder()
    weights = source.images.parent / "encoder.pth"
    torch.save(encoder.network.state_dict(), weights)
    return cross_validate(source, folds=folds, encoder=encoder.spec, weights=weights, options=options, **more)


def test_every_image_is_measured_once_by_a_decoder_that_neither_learned_it_nor_was_chosen_by_it(
    squares: CaptionSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[tuple[set[str], set[str]]] = []
    fit = fit_captions

    def watched(learned: Sequence[CaptionedExample], judged: Sequence[CaptionedExample], *rest: Any) -> Any:
        observed.append(({example.image_key for example in learned}, {example.image_key for example in judged}))
        return fit(learned, judged, *rest)

    monkeypatch.setattr(cross_validation, "fit_captions", watched)

    validation = validate(squares, 3)

    keys = {hashlib.sha256(file.read_bytes()).hexdigest() for file in squares.images.iterdir()}
    for fold, (learned, judged) in zip(validation.folds, observed, strict=True):
        measured = {key for key in keys if fold_of(key, 3) == fold.number}
        assert learned | judged == keys - measured
        assert judged
        assert not learned & judged
        assert (fold.train_images, fold.metrics.images) == (len(learned), len(measured))
    assert sum(fold.metrics.images for fold in validation.folds) == 30


def test_a_decoder_that_learns_gets_its_numbers_on_every_fold(squares: CaptionSource) -> None:
    training = TrainingOptions(
        epochs=20, batch_size=2, learning_rate=5e-3, patience=20, dropout=0.0, label_smoothing=0.0
    )

    validation = validate(squares, 2, replace(OPTIONS, hidden=32, held_out_share=4, training=training))

    always_the_same = 1.9  # one of three colours right
    assert min(fold.metrics.cider_d for fold in validation.folds) > always_the_same, validation.table()


def test_the_same_seed_gives_the_same_numbers_and_images_are_encoded_once(
    squares: CaptionSource, tmp_path: Path
) -> None:
    phases: list[Progress] = []

    options = replace(OPTIONS, views=2)

    first = validate(squares, 2, options, features=Store(tmp_path / "store"), on_progress=phases.append)
    second = validate(squares, 2, options)

    assert first.folds == second.folds
    images_and_mirrored_ones = [progress.done for progress in phases if progress.phase == "encode images"]
    assert images_and_mirrored_ones == [30, 30]
    assert {"fold 1 of 2: train decoder", "fold 2 of 2: caption images"} <= {progress.phase for progress in phases}


def test_the_first_fold_has_the_images_that_training_holds_out() -> None:
    keys = [f"{number:08x}" + "f" * 56 for number in range(20)]

    assert [fold_of(key, 4) == 1 for key in keys] == [is_held_out(key, 4) for key in keys]
    assert {fold_of(key, 4) for key in keys} == {1, 2, 3, 4}


def test_mean_and_deviation_are_those_of_the_folds() -> None:
    exact, wrong = measure(["a red dog"], [["a red dog"]]), measure(["blue"], [["a red dog"]])
    folds = (Fold(number=1, train_images=4, metrics=exact), Fold(number=2, train_images=5, metrics=wrong))

    validation = CrossValidation(folds=folds, left_out=LeftOut())

    assert validation.mean()["bleu_1"] == pytest.approx(0.5, abs=1e-6)
    assert validation.deviation()["bleu_1"] == pytest.approx(0.5**0.5, abs=1e-6)
    assert "2-fold cross-validation on 2 images" in validation.table()
    assert [line.split()[-6] for line in validation.table().splitlines()[2:]] == ["100.0", "0.0", "50.0", "70.7"]
    assert validation.to_json()["folds"][0]["metrics"]["bleu_1"] == pytest.approx(1)


def test_fewer_than_two_folds_are_refused(squares: CaptionSource) -> None:
    with pytest.raises(TrainingError, match="folds must be 2 or more, got 1"):
        validate(squares, 1)


def test_a_fold_without_images_is_refused_before_any_training(squares: CaptionSource) -> None:
    keys = [hashlib.sha256(file.read_bytes()).hexdigest() for file in squares.images.iterdir()]
    used = {folds: {fold_of(key, folds) for key in keys} for folds in range(2, 99)}
    folds = next(folds for folds, some in used.items() if 1 in some and len(some) < folds)
    observed: list[Progress] = []

    with pytest.raises(TrainingError, match=rf"fold \d+ of {folds} has 0 images to measure on .*: give more images"):
        validate(squares, folds, on_progress=observed.append)

    assert {progress.phase for progress in observed} == {"encode images"}
