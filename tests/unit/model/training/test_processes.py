"""Shares of the work. tests/integration/test_training_process.py runs several processes."""

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.errors import TrainingError
from model.training.batches import Batches
from model.training.losses import caption_loss, token_weights
from model.training.processes import ALONE, Processes, choose_device, join_processes
from tests.factories import make_captioner, make_replay, make_tokenizer

BOTH = [Processes(rank=rank, count=2) for rank in (0, 1)]


def test_one_process_needs_no_others() -> None:
    with join_processes("cpu", {}) as processes:
        assert (processes.is_first, processes.count, processes.device) == (True, 1, torch.device("cpu"))
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.mean(2.5, 7) == 2.5
        assert processes.from_first(lambda: 1.5) == 1.5


def test_shares_hold_every_item_once() -> None:
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
        [batch] = Batches(examples, captioner.tokenizer, 8, processes=processes)
        features, images, tokens, weights, _ = batch
        loss = caption_loss(captioner.decoder(features.float(), tokens, images), tokens, weights)
        [gradient] = torch.autograd.grad(loss, [captioner.decoder.embedding.weight])
        return gradient, float(token_weights(tokens, weights).sum())

    (first, much), (second, little) = map(gradient, BOTH)
    assert much > little > 0
    torch.testing.assert_close((first * much + second * little) / (much + little), gradient(ALONE)[0])


def test_shares_of_a_batch_have_the_same_views_as_the_whole_batch() -> None:
    examples = [
        CaptionedFeatures(
            features=torch.full((1, 1), float(number)), caption="a", views=(torch.full((1, 1), -float(number)),)
        )
        for number in range(1, 9)
    ]

    def features_of(processes: Processes) -> list[set[float]]:
        batches = Batches(examples, make_tokenizer(), 3, processes=processes)
        return [set(features.flatten().tolist()) for features, *_ in batches]

    for whole, first, second in zip(features_of(ALONE), *map(features_of, BOTH), strict=True):
        assert first | second == whole


def test_a_process_without_an_image_of_its_own_has_a_loss_of_weight_0() -> None:
    captioner = make_captioner()
    idle = Batches(make_replay(captioner)[:1], captioner.tokenizer, 1, processes=BOTH[1])

    [(features, images, tokens, weights, _)] = idle

    assert weights.tolist() == [0]
    assert caption_loss(captioner.decoder(features.float(), tokens, images), tokens, weights).item() == 0


@pytest.mark.parametrize("name", ["gpu", "meta", "mps"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f"the device must be cpu, cuda or cuda:N, got '{name}'"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "local_rank", "count", "device"),
    [
        (None, 0, 0, "cpu"),
        (None, 0, 1, "cuda:0"),
        (None, 1, 2, "cuda:1"),
        ("cpu", 1, 2, "cpu"),
        ("cuda:1", 0, 2, "cuda:1"),
    ],
)
def test_each_process_gets_a_gpu_if_there_are_any(
    name: str | None, local_rank: int, count: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    assert choose_device(name, local_rank) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "local_rank", "message"),
    [
        ("cuda", 1, "there is no GPU 1: torch finds 1"),
        ("cuda:3", 0, "there is no GPU 3"),
        ("cuda:0", 1, "of its own"),
    ],
)
def test_a_gpu_that_is_missing_or_in_use_is_refused(
    name: str, local_rank: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(TrainingError, match=message):
        choose_device(name, local_rank)
