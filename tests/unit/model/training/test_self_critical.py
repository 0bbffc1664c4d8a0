from dataclasses import replace
from typing import Any

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.base import sample_captions
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.metrics.cider import CiderD
from model.tokenizer import END, START
from model.training.rewards import Critic, SelfCriticalOptions, reward_captions
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from tests.factories import make_captioner, make_image, training_features

OPTIONS = SelfCriticalOptions(
    epochs=60, images_per_step=1, learning_rate=5e-3, max_tokens=8, averaging=0.9, warmup_steps=1
)


def test_rewards_raise_the_captions_of_people_above_equally_probable_ones() -> None:
    captioner = make_captioner()
    endings = {"red": "circle left", "green": "square", "blue": "circle"}
    features = {color: training_features(captioner, [make_image(color)])[0] for color in endings}
    taught = [
        CaptionedFeatures(features=features[color], caption=f"a {color} {ending}")
        for color in endings
        for ending in endings.values()
    ]
    options = TrainingOptions(epochs=150, batch_size=3, learning_rate=1e-2, dropout=0, label_smoothing=0)
    captioner.decoder.standardise(torch.stack(list(features.values())))
    fit_decoder(captioner.decoder, captioner.tokenizer, taught, [], options)
    wanted = [
        CaptionedFeatures(features=features[color], caption=f"a {color} {ending}") for color, ending in endings.items()
    ]

    rewards = reward_captions(captioner.decoder, captioner.tokenizer, wanted, OPTIONS).rewards

    assert sum(rewards[-10:]) > sum(rewards[:10]) + 10
    written = captioner.caption(torch.stack(list(features.values())), DecodingOptions())
    assert [captions[0].text for captions in written] == [example.caption for example in wanted]


def test_bleu_has_its_weight_in_the_reward() -> None:
    people = [["a b c d"], ["e f"]]
    caption = "a b d"

    without, some, more = (
        Critic(people, make_captioner().tokenizer, replace(OPTIONS, bleu_weight=weight)).reward(0, caption)
        for weight in (0, 1, 3)
    )

    assert without == CiderD([[tuple(caption.split()) for caption in row] for row in people]).score(
        0, tuple(caption.split())
    )
    assert more - without == pytest.approx(3 * (some - without))
    assert some > without


@pytest.mark.parametrize("caption", ["a man and a man", "a dog in a", "a dog dog runs"])
def test_a_caption_with_a_fault_loses_the_penalty(caption: str) -> None:
    people = [["a dog runs with a man"], ["a man sits in a room"]]

    free, punished = (
        Critic(people, make_captioner().tokenizer, replace(OPTIONS, fault_penalty=penalty)) for penalty in (0.0, 0.5)
    )

    assert free.reward(0, caption) - punished.reward(0, caption) == pytest.approx(0.5)
    assert free.reward(0, "a dog runs") == punished.reward(0, "a dog runs")


def test_the_decoder_keeps_a_share_of_its_first_weights() -> None:
    def weights(**changes: Any) -> torch.Tensor:
        captioner = make_captioner()
        example = CaptionedFeatures(features=training_features(captioner, [make_image()])[0], caption="a circle")
        options = replace(OPTIONS, **{"epochs": 2, **changes})
        reward_captions(captioner.decoder, captioner.tokenizer, [example], options)
        return captioner.decoder.embedding.weight.detach()

    before, rewarded = weights(epochs=0), weights(start_share=0)

    assert not torch.equal(before, rewarded)
    torch.testing.assert_close(weights(start_share=0.25), 0.25 * before + 0.75 * rewarded)


def test_no_epochs_leave_the_decoder_unchanged() -> None:
    captioner = make_captioner()
    before = captioner.decoder.embedding.weight.clone()
    example = CaptionedFeatures(features=training_features(captioner, [make_image()])[0], caption="a circle")

    record = reward_captions(captioner.decoder, captioner.tokenizer, [example], replace(OPTIONS, epochs=0))

    assert record.epochs == []
    assert torch.equal(captioner.decoder.embedding.weight, before)


def test_samples_run_from_start_to_end_and_belong_to_their_image() -> None:
    captioner = make_captioner()
    features = torch.from_numpy(captioner.encode([make_image("red"), make_image("blue")]))
    torch.manual_seed(1)

    tokens = sample_captions(captioner.decoder, features, samples=3, max_tokens=6)

    assert tokens.shape[0] == 6
    assert tokens.shape[1] <= 7
    assert (tokens[:, 0] == START).all()
    for row in tokens.tolist():
        ended = row.index(END) if END in row else len(row)
        assert set(row[ended + 1 :]) <= {0}


def test_a_single_sample_is_refused() -> None:
    with pytest.raises(TrainingError, match="samples must be 2 or more, got 1"):
        SelfCriticalOptions(samples=1)


@pytest.mark.parametrize("changes", [{"bleu_weight": -1}, {"fault_penalty": -1}, {"start_share": 1.0}])
def test_a_reward_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="must be 0 or more and start_share at least 0 and below 1"):
        replace(OPTIONS, **changes)


def test_cider_d_of_single_captions_by_hand() -> None:
    # Every n-gram is in one of two images, so all weigh log 2. The first caption has n = 1, 2 right: 10 * 2/4.
    # The second has one of two words, one word too few: 10/4 * 1/sqrt(2) * exp(-1/72).
    cider = CiderD([[("a", "b")], [("c", "d")]])

    assert cider.score(0, ("a", "b")) == pytest.approx(5.0)
    assert cider.score(1, ("c",)) == pytest.approx(1.7433843)
    assert cider.score(1, ("a", "b")) == 0
    assert cider.score(0, ()) == 0
