"""A training that is interrupted goes on as if nothing had happened, and tells what each epoch did."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.training.checkpoint import Checkpoint
from model.training.rewards import SelfCriticalOptions, reward_captions
from model.training.teacher_forcing import CaptionedFeatures, TrainingOptions, fit_decoder
from model.training.trainer import Course
from model.training.training_record import EpochRecord
from tests.factories import make_captioner, make_replay

TAUGHT = TrainingOptions(epochs=3, batch_size=4, dropout=0.4, averaging=0.9, learning_rate=1e-2)
REWARDED = SelfCriticalOptions(epochs=2, images_per_step=2, max_tokens=6)


class PowerCutError(Exception):
    """What a kill is in these tests."""


def power_cut_after(count: int) -> Callable[[Sequence[EpochRecord]], None]:
    def cut(epochs: Sequence[EpochRecord]) -> None:
        if len(epochs) == count:
            raise PowerCutError

    return cut


def train(
    folder: Path, taught: TrainingOptions = TAUGHT, on_epoch: Callable[[Sequence[EpochRecord]], None] | None = None
) -> tuple[dict[str, Tensor], list[EpochRecord]]:
    captioner = make_captioner()
    examples = make_replay(captioner)
    held_out = [replace(examples[0], caption="a red circle"), replace(examples[1], caption="a green circle")]
    course = Course(checkpoint=Checkpoint(folder, {}), on_epoch=on_epoch)
    fit_decoder(captioner.decoder, captioner.tokenizer, examples, held_out, taught, course=course)
    reward_captions(captioner.decoder, captioner.tokenizer, examples, REWARDED, held_out=held_out, course=course)
    return captioner.decoder.state_dict(), [epoch for phase in course.records.values() for epoch in phase.epochs]


def timeless(epochs: Sequence[EpochRecord]) -> list[EpochRecord]:
    return [replace(epoch, seconds=0) for epoch in epochs]


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_a_training_cut_off_after_any_epoch_ends_with_the_weights_and_record_of_a_whole_one(
    count: int, tmp_path: Path
) -> None:
    weights, epochs = train(tmp_path / "whole")
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", on_epoch=power_cut_after(count))
    torch.manual_seed(99)  # a new process knows nothing of the old one's random numbers
    seen: list[int] = []

    found, told = train(tmp_path / "cut", on_epoch=lambda epochs: seen.append(len(epochs)))

    assert seen == list(range(count, len(epochs) + 1))  # no epoch twice
    assert all(torch.equal(value, found[name]) for name, value in weights.items())
    assert timeless(told) == timeless(epochs)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
def test_every_optimizer_goes_on_where_it_was(optimizer: str, tmp_path: Path) -> None:
    options = replace(TAUGHT, optimizer=optimizer, averaging=0.0)
    weights, _ = train(tmp_path / "whole", options)
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", options, power_cut_after(2))

    found, _ = train(tmp_path / "cut", options)

    assert all(torch.equal(value, found[name]) for name, value in weights.items())


def test_a_phase_that_ended_for_want_of_progress_does_not_begin_again(tmp_path: Path) -> None:
    impatient = replace(TAUGHT, epochs=9, patience=1, learning_rate=0.5, averaging=0.0)
    _, epochs = train(tmp_path / "whole", impatient)
    taught = sum(epoch.phase == "captions" for epoch in epochs)
    assert taught < impatient.epochs
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", impatient, power_cut_after(taught))

    _, told = train(tmp_path / "cut", impatient)

    assert timeless(told) == timeless(epochs)


def test_each_epoch_tells_how_it_went(tmp_path: Path) -> None:
    seen: list[int] = []

    _, epochs = train(tmp_path, on_epoch=lambda epochs: seen.append(len(epochs)))

    assert seen == [1, 2, 3, 4, 5]
    assert [(epoch.phase, epoch.epoch) for epoch in epochs] == [
        ("captions", 1), ("captions", 2), ("captions", 3), ("rewards", 1), ("rewards", 2),
    ]  # fmt: skip
    assert [epoch.train_loss is None for epoch in epochs] == [False] * 3 + [True] * 2
    assert [epoch.reward is None for epoch in epochs] == [True] * 3 + [False] * 2
    for epoch in epochs:
        assert epoch.held_out_loss is not None
        assert epoch.cider_d is not None
        assert epoch.bleu_4 is not None
        assert 0 <= epoch.bleu_4 <= 1
        assert epoch.seconds > 0
    assert epochs[1].learning_rate > epochs[2].learning_rate > 0


def test_without_held_out_captions_nothing_is_measured() -> None:
    captioner = make_captioner()

    record = fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], TAUGHT)

    assert [(epoch.held_out_loss, epoch.cider_d) for epoch in record.epochs] == [(None, None)] * 3
    assert record.best_epoch == 3


def test_held_out_captions_are_measured_by_what_people_wrote() -> None:
    captioner = make_captioner()
    examples = make_replay(captioner)
    options = replace(TAUGHT, epochs=100, dropout=0.0, averaging=0.0, label_smoothing=0.0, patience=100)
    people = [
        CaptionedFeatures(features=example.features, caption=f"{example.caption} on the left") for example in examples
    ]

    told = fit_decoder(captioner.decoder, captioner.tokenizer, people, people, options).epochs

    assert told[-1].bleu_4 == pytest.approx(1)
    assert told[-1].cider_d is not None
    assert told[-1].cider_d > 1 > (told[0].cider_d or 0)
