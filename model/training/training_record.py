"""What a training tells: where it stands after a step, what each epoch did, and what each phase came to."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Where a training stands after a step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    """Training loss of the last batch, nats per token, or its mean reward, negative."""
    eta_s: float


@dataclass(frozen=True)
class HeldOutMetrics:
    """How good a decoder is on what it does not learn from."""

    loss: float
    """Nats per token."""
    cider_d: float
    """0 to 10, of the most probable words (beam 1)."""
    bleu_4: float
    """0 to 1, of the same captions."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What an epoch did."""

    phase: str
    epoch: int
    """Within its phase, from 1."""
    train_loss: float | None
    """Mean over the steps, nats per token; None where captions are rewarded."""
    reward: float | None
    """Mean of the samples; None where captions are taught."""
    held_out_loss: float | None
    """None, as the two below, when nothing is held out."""
    cider_d: float | None
    bleu_4: float | None
    learning_rate: float
    """At its last step."""
    seconds: float


@dataclass(kw_only=True)
class TrainingRecord:
    """What a phase did."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    """1-based; the decoder is left as it was after this epoch."""
    steps: int = 0
    seconds: float = 0.0

    @property
    def train_losses(self) -> list[float]:
        return [epoch.train_loss for epoch in self.epochs if epoch.train_loss is not None]

    @property
    def rewards(self) -> list[float]:
        return [epoch.reward for epoch in self.epochs if epoch.reward is not None]

    @property
    def held_out_losses(self) -> list[float]:
        return [epoch.held_out_loss for epoch in self.epochs if epoch.held_out_loss is not None]
