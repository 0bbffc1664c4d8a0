"""An interrupted training resumes as if nothing had happened, and each epoch is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.captioned_features import CaptionedFeatures
from model.training.checkpoint import Checkpoint
from model.training.rewards import SelfCriticalOptions, reward_captions
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from model.training.trainer import Trainer
from model.training.training_record import EpochRecord
from tests.factories import make_captioner, make_replay

TAUGHT = TrainingOptions(epochs=3, batch_size=4, dropout=0.4, averaging=0.9, learning_rate=1e-2)
REWARDED = SelfCriticalOptions(epochs=2, images_per_step=2, max_tokens=6)


class PowerCutError(Exception):
    """Stands for a kill in these tests."""


def power_cut_after(count: int) -> Callable[[Sequence[EpochRecord]], None]:
    def cut(epochs: Sequence[EpochRecord]) -> None:
        if len(epochs) == count:
            raise PowerCutError

    return cut


def train(
    folder: Path,
    taught: TrainingOptions = TAUGHT,
    on_epoch: Callable[[Sequence[EpochRecord]], None] | None = None,
    *,
    with_stages: bool = False,
) -> tuple[dict[str, Tensor], list[EpochRecord]]:
    captioner = make_captioner()
    examples = make_replay(captioner)
    if with_stages:
        size = captioner.encoder.feature_size
        captioner.decoder.trainable_stages = torch.nn.Linear(size, size)
    held_out = [replace(examples[0], caption="a red circle"), replace(examples[1], caption="a green circle")]
    trainer = Trainer(checkpoint=Checkpoint(folder, {}), on_epoch=on_epoch)
    fit_decoder(captioner.decoder, captioner.tokenizer, examples, held_out, taught, trainer=trainer)
    reward_captions(captioner.decoder, captioner.tokenizer, examples, REWARDED, held_out=held_out, trainer=trainer)
    return captioner.decoder.state_dict(), [epoch for phase in trainer.records.values() for epoch in phase.epochs]


def timeless(epochs: Sequence[EpochRecord]) -> list[EpochRecord]:
    return [replace(epoch, seconds=0) for epoch in epochs]


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_a_training_cut_off_after_any_epoch_ends_with_the_weights_and_record_of_a_whole_one(
    count: int, tmp_path: Path
) -> None:
    weights, epochs = train(tmp_path / "whole")
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", on_epoch=power_cut_after(count))
    torch.manual_seed(99)  # a new process does not have the random numbers of the old one
    counts: list[int] = []

    resumed_weights, resumed_epochs = train(tmp_path / "cut", on_epoch=lambda epochs: counts.append(len(epochs)))

    assert counts == list(range(count, len(epochs) + 1))  # no epoch twice
    assert all(torch.equal(value, resumed_weights[name]) for name, value in weights.items())
    assert timeless(resumed_epochs) == timeless(epochs)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
def test_every_optimizer_goes_on_where_it_was(optimizer: str, tmp_path: Path) -> None:
    options = replace(TAUGHT, optimizer=optimizer, averaging=0.0)
    weights, _ = train(tmp_path / "whole", options)
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", options, power_cut_after(2))

    resumed, _ = train(tmp_path / "cut", options)

    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_a_checkpoint_of_version_0_1_0_resumes_although_it_calls_the_trainable_stages_tail(tmp_path: Path) -> None:
    weights, epochs = train(tmp_path / "whole", with_stages=True)
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", on_epoch=power_cut_after(4), with_stages=True)
    checkpoint = Checkpoint(tmp_path / "cut", {})
    saved = checkpoint.load()
    assert saved is not None
    state = saved["state"]
    for holder, name in ((state, "network"), (state, "average"), (state, "start"), (state["best"], "weights")):
        holder[name] = {key.replace("trainable_stages.", "tail."): value for key, value in holder[name].items()}
    assert "tail.weight" in state["network"]
    checkpoint.save(saved)

    resumed_weights, resumed_epochs = train(tmp_path / "cut", with_stages=True)

    assert all(torch.equal(value, resumed_weights[name]) for name, value in weights.items())
    assert timeless(resumed_epochs) == timeless(epochs)


def test_a_phase_that_ended_without_progress_does_not_start_again(tmp_path: Path) -> None:
    impatient = replace(TAUGHT, epochs=9, patience=1, learning_rate=0.5, averaging=0.0)
    _, epochs = train(tmp_path / "whole", impatient)
    taught = sum(epoch.phase == "captions" for epoch in epochs)
    assert taught < impatient.epochs
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", impatient, power_cut_after(taught))

    _, resumed = train(tmp_path / "cut", impatient)

    assert timeless(resumed) == timeless(epochs)


def test_each_epoch_is_recorded(tmp_path: Path) -> None:
    counts: list[int] = []

    _, epochs = train(tmp_path, on_epoch=lambda epochs: counts.append(len(epochs)))

    assert counts == [1, 2, 3, 4, 5]
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

    epochs = fit_decoder(captioner.decoder, captioner.tokenizer, people, people, options).epochs

    assert epochs[-1].bleu_4 == pytest.approx(1)
    assert epochs[-1].cider_d is not None
    assert epochs[-1].cider_d > 1 > (epochs[0].cider_d or 0)
