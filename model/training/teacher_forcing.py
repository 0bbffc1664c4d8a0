"""Teacher forcing: the decoder learns to predict each token of a caption from the image and the tokens before it.

Shapes:  B images of a batch   N captions of a batch   T tokens   P regions   D feature size
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.errors import TrainingError
from model.tokenizer import Tokenizer
from model.training.batches import Batches
from model.training.held_out import HeldOut
from model.training.losses import ExpectedWords, caption_loss, token_weights
from model.training.optimization import AFTER, reduced_precision
from model.training.phase import PhaseOptions, Step
from model.training.processes import moved
from model.training.trainer import OnStep, Trainer
from model.training.training_record import TrainingRecord

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
"""AdamW subtracts the weight decay from the weights. The others add it to the loss (L2)."""

NEXT_TO_WORDS = ("embedding", "bias", "readout")
"""First parts of the names of the decoder's parameters that turn its state into words."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of teacher forcing."""

    epochs: int = 20
    """0 skips this training; only a decoder that was trained before can do without it."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    inner_learning_rate: float | None = None
    """Learning rate of attention and LSTM; None uses `learning_rate`. A lower rate changes the choice of words without
    unlearning where to look."""
    encoder_learning_rate: float = 1e-4
    """Learning rate of the encoder's trainable stages, if any."""
    encoder_after: float = 0.4
    """Share of the steps before these stages start to learn: gradients of an untrained decoder would spoil them
    (Vinyals et al. 2016, https://arxiv.org/abs/1609.06647)."""
    label_smoothing: float = 0.1
    dropout: float = 0.3
    feature_dropout: float | None = None
    """Dropout of the features; None uses `dropout`."""
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    """A name in OPTIMIZERS."""
    clip_norm: float = 5.0
    averaging: float = 0.0
    """Decay of the running average of the weights that is measured and kept (Polyak and Juditsky 1992,
    https://doi.org/10.1137/0330046); 0 keeps the last weights."""
    temperature: float = 1.0
    """Divides the logits (see Captioner). Without it, training makes a rewarded decoder less confident."""
    reduced_precision: bool = False
    """Multiply in bfloat16 if the processor can: about twice as fast."""
    warmup_steps: int = 100
    patience: int = 3
    """Epochs without a better held-out loss before training stops."""
    seed: int = 0
    budget_s: float = math.inf
    """Training stops after this many seconds, even within an epoch."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.temperature <= 0:
            raise TrainingError(f"temperature must be above 0, got {self.temperature}")
        for name in ("dropout", "feature_dropout", "label_smoothing", "averaging"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise TrainingError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


def fit_decoder(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    held_out: Sequence[CaptionedFeatures],
    options: TrainingOptions,
    on_progress: OnStep | None = None,
    trainer: Trainer | None = None,
    expected: Sequence[ExpectedWords | None] = (),
) -> TrainingRecord:
    """Train the decoder in place, on its device. It ends with the weights of its best epoch by held-out loss.

    Args:
        held_out: captions to measure on after each epoch. Without any the last epoch is kept.
        trainer: of the training that this is a phase of; None makes one for this phase alone.
        expected: for each caption to learn the probabilities that replace its words as targets; empty for none.

    Raises:
        TrainingError: there is no caption to train on, or the loss is no longer a number.
    """
    if not train:
        raise TrainingError("there is no caption to train on")
    if not options.epochs:
        return TrainingRecord()
    trainer = trainer or Trainer()
    phase = PhaseOptions.of(options, phase="captions")
    decoder.dropout.p = options.dropout
    decoder.feature_dropout.p = options.dropout if options.feature_dropout is None else options.feature_dropout
    optimizer = OPTIMIZERS[options.optimizer](parameter_groups(decoder, options), weight_decay=options.weight_decay)
    batches = Batches(train, tokenizer, options.batch_size, options.seed, trainer.processes)
    measure = HeldOut(tokenizer, held_out).measure if held_out else None
    return trainer.run_phase(
        phase, decoder, optimizer, TeacherForcing(decoder, batches, options, expected), measure, on_progress
    )


class TeacherForcing:
    """Steps that raise the probability of the captions of a batch."""

    def __init__(
        self,
        decoder: CaptionDecoder,
        batches: Batches,
        options: TrainingOptions,
        expected: Sequence[ExpectedWords | None] = (),
    ) -> None:
        self.order = batches.order
        self._decoder, self._batches, self._options, self._expected = decoder, batches, options, expected

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Step]:
        device, options = self._decoder.device, self._options
        self._decoder.train()
        for batch in self._batches:
            features, images, tokens, weights = moved(batch[:4], device)
            with reduced_precision(options.reduced_precision, device):
                logits = self._decoder(features.float(), tokens, images)
            expected = [self._expected[number] for number in batch.examples] if self._expected else ()
            logits = logits.float() / options.temperature
            loss = caption_loss(logits, tokens, weights, options.label_smoothing, expected)
            yield Step(loss=loss, weight=float(token_weights(batch.tokens, batch.weights).sum()))


def parameter_groups(decoder: CaptionDecoder, options: TrainingOptions) -> list[dict[str, Any]]:
    """Return parameters with their learning rates: those next to the words, the inner ones, and the encoder's."""
    inner_rate = options.learning_rate if options.inner_learning_rate is None else options.inner_learning_rate
    own, encoder = own_and_encoder(decoder)
    return [
        {"params": [value for name, value in own if name.startswith(NEXT_TO_WORDS)], "lr": options.learning_rate},
        {"params": [value for name, value in own if not name.startswith(NEXT_TO_WORDS)], "lr": inner_rate},
        *([{"params": encoder, "lr": options.encoder_learning_rate, AFTER: options.encoder_after}] if encoder else []),
    ]


def own_and_encoder(decoder: CaptionDecoder) -> tuple[list[tuple[str, nn.Parameter]], list[nn.Parameter]]:
    """Return the decoder's own parameters by name, and those of the encoder's trainable stages."""
    encoder = [] if decoder.trainable_stages is None else list(decoder.trainable_stages.parameters())
    ids = {id(value) for value in encoder}
    return [(name, value) for name, value in decoder.named_parameters() if id(value) not in ids], encoder
