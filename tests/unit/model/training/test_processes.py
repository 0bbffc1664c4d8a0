"""Shares of the work; that processes really work together is in tests/integration/test_training_process.py."""

import pytest
import torch

from model.errors import TrainingError
from model.training.processes import ALONE, Processes, choose_device, join_processes
from model.training.teacher_forcing import Batches, CaptionedFeatures, TrainingOptions, caption_loss, token_weights
from tests.factories import make_captioner, make_replay, make_tokenizer

BOTH = [Processes(rank=rank, count=2) for rank in (0, 1)]


def test_one_process_needs_no_others() -> None:
    with join_processes("cpu", {}) as processes:
        assert (processes.is_first, processes.count, processes.device) == (True, 1, torch.device("cpu"))
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.mean(2.5, 7) == 2.5
        assert processes.from_first(lambda: [1.5], 1) == [1.5]


def test_shares_are_all_there_is_and_nothing_twice() -> None:
    shares = [processes.share(range(7)) for processes in BOTH]

    assert sorted(number for share in shares for number in share) == list(range(7))


def test_the_weighted_gradients_of_all_shares_are_the_gradient_of_the_batch() -> None:
    captioner = make_captioner()
    colors = make_replay(captioner)[:3]
    examples = [
        CaptionedFeatures(features=example.features, caption=caption, weight=weight)
        for example in colors
        for caption, weight in ((example.caption, 1.0), ("a circle on the left", 0.5))
    ]

    def gradient(processes: Processes) -> tuple[torch.Tensor, float]:
        [batch] = Batches(examples, captioner.tokenizer, TrainingOptions(batch_size=8), processes)
        features, images, tokens, weights, _ = batch
        loss = caption_loss(captioner.decoder(features.float(), tokens, images), tokens, weights)
        [found] = torch.autograd.grad(loss, [captioner.decoder.embedding.weight])
        return found, float(token_weights(tokens, weights).sum())

    (first, much), (second, little) = map(gradient, BOTH)
    assert much > little > 0
    torch.testing.assert_close((first * much + second * little) / (much + little), gradient(ALONE)[0])


def test_shares_of_a_batch_see_the_same_side_of_an_image_as_the_whole_batch_does() -> None:
    examples = [
        CaptionedFeatures(
            features=torch.full((1, 1), float(number)), caption="a", views=(torch.full((1, 1), -float(number)),)
        )
        for number in range(1, 9)
    ]

    def seen(processes: Processes) -> list[set[float]]:
        batches = Batches(examples, make_tokenizer(), TrainingOptions(batch_size=3), processes)
        return [set(features.flatten().tolist()) for features, *_ in batches]

    for whole, one, other in zip(seen(ALONE), *map(seen, BOTH), strict=True):
        assert one | other == whole


def test_a_process_without_an_image_of_its_own_counts_nothing_and_has_a_loss_all_the_same() -> None:
    captioner = make_captioner()
    idle = Batches(make_replay(captioner)[:1], captioner.tokenizer, TrainingOptions(batch_size=1), BOTH[1])

    [(features, images, tokens, weights, _)] = idle

    assert weights.tolist() == [0]
    assert caption_loss(captioner.decoder(features.float(), tokens, images), tokens, weights).item() == 0


@pytest.mark.parametrize("name", ["gpu", "meta", "mps"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f"the device must be cpu, cuda or cuda:N, got '{name}'"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "local_rank", "there", "device"),
    [
        (None, 0, 0, "cpu"),
        (None, 0, 1, "cuda:0"),
        (None, 1, 2, "cuda:1"),
        ("cpu", 1, 2, "cpu"),
        ("cuda:1", 0, 2, "cuda:1"),
    ],
)
def test_a_gpu_is_taken_if_there_is_one_and_one_for_each_process(
    name: str | None, local_rank: int, there: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)

    assert choose_device(name, local_rank) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "local_rank", "said"),
    [
        ("cuda", 1, "GPU 1 is not there: torch finds 1"),
        ("cuda:3", 0, "GPU 3 is not there"),
        ("cuda:0", 1, "of its own"),
    ],
)
def test_a_gpu_that_is_not_there_or_taken_is_refused(
    name: str, local_rank: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(TrainingError, match=said):
        choose_device(name, local_rank)
