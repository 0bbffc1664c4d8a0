"""Numbers of a training: where it stands after a step, the result of each epoch, and that of each phase."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """State of a training after a step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    """Training loss of the last batch in nats per token; where captions are rewarded, minus the mean reward."""
    eta_s: float


@dataclass(frozen=True)
class HeldOutMetrics:
    """Quality of a decoder on held-out captions."""

    loss: float
    """Nats per token."""
    cider_d: float
    """0 to 10, of captions that are decoded greedily."""
    bleu_4: float
    """0 to 1, of the same captions."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Result of an epoch. The held-out numbers are None when nothing is held out."""

    phase: str
    epoch: int
    """Within its phase, from 1."""
    train_loss: float | None
    """Mean over the steps, nats per token; None where captions are rewarded."""
    reward: float | None
    """Mean over the samples; None where captions are taught."""
    held_out_loss: float | None
    cider_d: float | None
    bleu_4: float | None
    learning_rate: float
    """At its last step."""
    seconds: float


@dataclass(kw_only=True)
class TrainingRecord:
    """Result of a phase."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    """From 1. The network ends with the weights of this epoch."""
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
