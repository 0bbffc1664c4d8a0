import math

import pytest
import torch

from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.tokenizer import END, SPELL, START, caption_tokens
from model.training.batches import Batches, padded
from model.training.losses import caption_loss, token_loss
from model.training.optimization import warmup_then_cosine
from model.training.teacher_forcing import OPTIMIZERS, TrainingOptions, fit_decoder
from model.training.training_record import TrainingProgress
from tests.factories import make_captioner, make_decoder, make_replay, make_tokenizer

FAST = TrainingOptions(epochs=80, batch_size=4, learning_rate=1e-2, dropout=0.0, label_smoothing=0.0, warmup_steps=5)


def test_training_teaches_the_captions_of_three_pictures() -> None:
    captioner = make_captioner()
    examples = make_replay(captioner)

    record = fit_decoder(captioner.decoder, captioner.tokenizer, examples, [], FAST)

    captions = captioner.caption(torch.stack([e.features for e in examples[:3]]), DecodingOptions())
    assert [best.text for best, *_ in captions] == ["a red square", "a green square", "a blue square"]
    assert record.train_losses[-1] < 0.1 < record.train_losses[0]


def test_the_same_seed_gives_the_same_losses() -> None:
    def losses() -> list[float]:
        captioner = make_captioner()
        options = TrainingOptions(epochs=3, batch_size=4, dropout=0.5, seed=7)
        return fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options).train_losses

    assert losses() == losses()


def test_the_decoder_is_left_at_its_best_held_out_epoch() -> None:
    captioner = make_captioner()
    examples = make_replay(captioner)
    contrary = [CaptionedFeatures(features=e.features, caption="two right") for e in examples[:2]]

    record = fit_decoder(captioner.decoder, captioner.tokenizer, examples, contrary, FAST)

    assert len(record.held_out_losses) == record.best_epoch + FAST.patience
    assert token_loss(captioner.decoder, captioner.tokenizer, contrary) == pytest.approx(
        min(record.held_out_losses), abs=1e-5
    )


def test_training_ends_when_its_seconds_are_spent() -> None:
    captioner = make_captioner()
    options = TrainingOptions(epochs=1000, batch_size=4, budget_s=0.0)

    record = fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options)

    assert record.steps == 1


def test_progress_counts_every_step() -> None:
    captioner = make_captioner()
    collected: list[TrainingProgress] = []
    options = TrainingOptions(epochs=2, batch_size=4)

    fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options, collected.append)

    assert [(p.epoch, p.step, p.steps) for p in collected] == [(1 + i // 3, i + 1, 6) for i in range(6)]
    assert collected[-1].eta_s == 0


def test_a_caption_of_more_weight_wins_over_a_contradiction() -> None:
    captioner = make_captioner()
    features = make_replay(captioner)[0].features
    contradiction = [
        CaptionedFeatures(features=features, caption="a red circle", weight=3.0),
        CaptionedFeatures(features=features, caption="a red square", weight=1.0),
    ]

    fit_decoder(captioner.decoder, captioner.tokenizer, contradiction, [], FAST)

    assert captioner.caption(features.unsqueeze(0), DecodingOptions())[0][0].text == "a red circle"


def test_padding_does_not_count_in_the_loss() -> None:
    tokens = padded([[START, 3, 3, 3], [START, 3]])

    loss = caption_loss(torch.zeros(4, 4), tokens, torch.ones(2))

    assert loss.item() == pytest.approx(math.log(4))


def test_token_loss_is_the_mean_negative_log_likelihood_per_token() -> None:
    tokenizer = make_tokenizer()
    decoder = make_decoder(features=8)
    example = CaptionedFeatures(features=torch.randn(6, 8), caption="a red circle")
    tokens = torch.tensor([[START, *tokenizer.encode("a red circle"), END]])

    loss = token_loss(decoder, tokenizer, [example])

    log_probs = decoder(example.features.unsqueeze(0), tokens).detach().log_softmax(-1)
    assert loss == pytest.approx(-float(log_probs.gather(1, tokens[:, 1:].T).mean()), abs=1e-5)


def test_the_captions_of_an_image_share_its_features_in_a_batch_and_none_is_repeated() -> None:
    images = [torch.full((1, 1), float(image)) for image in range(3)]
    examples = [
        CaptionedFeatures(features=image, caption=f"{word} {int(image)}") for image in images for word in ("a", "one")
    ]
    tokenizer = make_tokenizer().extended([example.caption for example in examples], min_count=1)

    collected = []
    for features, described, tokens, weights, _ in Batches(examples, tokenizer, 4):
        assert len(features) < len(tokens) == len(weights)
        for image, row in zip(described.tolist(), tokens.tolist(), strict=True):
            text = tokenizer.decode(row)
            assert text.endswith(str(int(features[image])))
            collected.append(text)

    assert sorted(collected) == sorted(example.caption for example in examples)


def test_views_are_used_only_if_all_captions_of_the_step_are_true_of_them() -> None:
    image, turned = torch.zeros(1, 1), torch.ones(1, 1)
    free = CaptionedFeatures(features=image, caption="a circle", views=(turned,))
    sided = CaptionedFeatures(features=torch.full((1, 1), 2.0), caption="on the left")
    batches = Batches([free, sided], make_tokenizer(), 1)

    collected = {float(features) for _ in range(20) for features, *_ in batches}

    assert collected == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(("after", "moves"), [(1.0, False), (0.5, True), (0.0, True)])
def test_the_encoders_stages_learn_after_their_share_of_the_steps(after: float, moves: bool) -> None:
    captioner = make_captioner()
    tail = torch.nn.Linear(captioner.encoder.feature_size, captioner.encoder.feature_size)
    before = tail.weight.detach().clone()
    captioner.decoder.trainable_stages = tail

    options = TrainingOptions(epochs=4, batch_size=4, encoder_after=after)
    fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options)

    assert torch.equal(tail.weight, before) is not moves


def test_the_averaged_decoder_lags_behind_the_trained_one() -> None:
    moved = []
    for averaging in (0.0, 0.99):
        captioner = make_captioner()
        start = captioner.decoder.embedding.weight.detach().clone()
        options = TrainingOptions(epochs=3, batch_size=4, averaging=averaging)
        fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options)
        moved.append(float((captioner.decoder.embedding.weight.detach() - start).norm()))

    assert 0 < moved[1] < moved[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(optimizer: str) -> None:
    captioner = make_captioner()
    options = TrainingOptions(epochs=15, batch_size=4, optimizer=optimizer, dropout=0.0, learning_rate=1e-2)

    record = fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options)

    assert record.train_losses[-1] < record.train_losses[0]


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="one of adamw, adam, rmsprop, adagrad, sgd, got 'lion'"):
        TrainingOptions(optimizer="lion")


def test_a_word_out_of_vocabulary_is_one_token_for_the_decoder() -> None:
    tokenizer = make_tokenizer()

    tokens = caption_tokens(tokenizer, "a zyzzyva circle")

    assert tokens == [START, *tokenizer.encode("a"), SPELL, *tokenizer.encode("circle"), END]


def test_a_repeated_caption_is_spread_over_the_batches() -> None:
    example = CaptionedFeatures(features=torch.zeros(1, 1), caption="a red circle")

    batches = list(Batches([example] * 6, make_tokenizer(), 2))

    assert [len(features) for features, *_ in batches] == [2, 2, 2]


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = warmup_then_cosine(optimizer, warmup_steps=10, steps=110)

    rates = []
    for _ in range(111):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()

    assert [rates[step] for step in (0, 9, 10, 60, 110)] == pytest.approx([0.05, 0.5, 0.5, 0.25, 0])


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no caption to train on"):
        fit_decoder(make_decoder(features=8), make_tokenizer(), [], [], FAST)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    captioner = make_captioner()
    broken = [CaptionedFeatures(features=torch.full((4, captioner.encoder.feature_size), math.nan), caption="a")]

    with pytest.raises(TrainingError, match="no longer a number"):
        fit_decoder(captioner.decoder, captioner.tokenizer, broken, [], FAST)


@pytest.mark.parametrize("option", [{"epochs": -1}, {"dropout": 1.0}, {"label_smoothing": -0.1}])
def test_options_out_of_range_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        TrainingOptions(**option)  # type: ignore[arg-type]


def test_inner_parameters_can_learn_at_a_rate_of_their_own() -> None:
    captioner = make_captioner()
    before = {name: value.clone() for name, value in captioner.decoder.named_parameters()}
    options = TrainingOptions(epochs=1, batch_size=4, weight_decay=0.0, inner_learning_rate=0.0)

    fit_decoder(captioner.decoder, captioner.tokenizer, make_replay(captioner), [], options)

    moved = {name for name, value in captioner.decoder.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"embedding.weight", "bias", "readout.weight", "readout.bias"}
