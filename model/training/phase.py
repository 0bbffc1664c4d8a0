"""One phase of a training: the network's steps, its running average, its best epoch, and the state to resume from."""

import copy
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from model.training.optimization import running_average, take_step, warmup_then_cosine
from model.training.processes import Processes
from model.training.training_record import EpochRecord, HeldOutMetrics, TrainingProgress, TrainingRecord

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class PhaseOptions:
    """Length, seed and weights of one phase."""

    phase: str
    """Name of the phase, such as `captions` or `rewards`; unique in a training."""
    epochs: int
    warmup_steps: int
    averaging: float
    """Decay of the running average of the weights that is measured and kept; 0 keeps the weights themselves."""
    clip_norm: float
    seed: int
    patience: int | None = None
    """The phase ends after this many epochs without a better held-out loss and returns to its best epoch. None runs all
    epochs and keeps the last one."""
    budget_s: float = math.inf
    start_share: float = 0.0
    """Share of the weights before the phase in the final weights (Wortsman et al. 2022,
    https://arxiv.org/abs/2109.01903). It preserves earlier learning."""

    @classmethod
    def of(cls, options: object, **more: Any) -> Self:
        """Return phase options with the values that `options` has under the same names, and with `more`."""
        shared = {field.name: getattr(options, field.name) for field in fields(cls) if hasattr(options, field.name)}
        return cls(**shared | more)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Result of a forward pass on this process's share of a batch."""

    loss: Tensor
    weight: float
    """Number of items that the loss is a mean over, such as tokens; 0 when this process has no share."""
    reward: float | None = None
    """Mean reward; None where captions are taught."""
    images: int = 0
    """Number of images that the reward is a mean over."""


class BatchSource(Protocol):
    """The steps of an epoch; each iteration is a new epoch."""

    @property
    def order(self) -> torch.Generator:
        """Random generator of the order of an epoch, in the same state in all processes."""

    def __len__(self) -> int:
        """Return the number of steps."""

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps; the network changes after each."""


class Phase(Generic[Network]):
    """A network on its way through one phase."""

    def __init__(
        self, options: PhaseOptions, network: Network, optimizer: torch.optim.Optimizer, batches: BatchSource
    ) -> None:
        self.options, self.batches = options, batches
        self.record = TrainingRecord()
        self._network, self._optimizer = network, optimizer
        self._average = running_average(network, options.averaging) if options.averaging else None
        self._best_loss = math.inf
        self._best_weights: dict[str, Tensor] = {}
        self._start = copy.deepcopy(network.state_dict()) if options.start_share else {}
        self._steps = options.epochs * len(batches)
        self._schedule = warmup_then_cosine(optimizer, options.warmup_steps, self._steps)
        self._learning_rate = 0.0
        self._started = time.monotonic()

    @property
    def measured_network(self) -> Network:
        """The network that is measured and kept: the running average, or the network itself."""
        return cast(Network, self._average.module) if self._average else self._network

    @property
    def epochs_since_best(self) -> int:
        return len(self.record.epochs) - self.record.best_epoch

    def elapsed_s(self) -> float:
        """Return the seconds of this phase, including those before an interruption."""
        return time.monotonic() - self._started

    def take(self, step: Step, processes: Processes) -> float:
        """Change the network by one step and return the loss of the whole batch."""
        loss = take_step(
            self._network, self._optimizer, step.loss, self.options.clip_norm, weight=step.weight, processes=processes
        )
        self._learning_rate = float(self._optimizer.param_groups[0]["lr"])
        self._schedule.step()
        if self._average:
            self._average.update_parameters(self._network)
        self.record.steps += 1
        return loss

    def progress(self, loss: float) -> TrainingProgress:
        elapsed_s, done = self.elapsed_s(), self.record.steps
        eta_s = min(elapsed_s / done * (self._steps - done), self.options.budget_s - elapsed_s)
        return TrainingProgress(
            epoch=len(self.record.epochs) + 1,
            epochs=self.options.epochs,
            step=done,
            steps=self._steps,
            loss=loss,
            eta_s=max(eta_s, 0.0),
        )

    def close_epoch(self, losses: Sequence[float], rewards: Sequence[float], metrics: HeldOutMetrics | None) -> None:
        """Record an epoch; copy the weights if it is the best so far."""
        epoch, elapsed_s = len(self.record.epochs) + 1, self.elapsed_s()
        self.record.epochs.append(
            EpochRecord(
                phase=self.options.phase,
                epoch=epoch,
                train_loss=None if rewards else sum(losses) / len(losses),
                reward=sum(rewards) / len(rewards) if rewards else None,
                held_out_loss=metrics.loss if metrics else None,
                cider_d=metrics.cider_d if metrics else None,
                bleu_4=metrics.bleu_4 if metrics else None,
                learning_rate=self._learning_rate,
                seconds=elapsed_s - self.record.seconds,
            )
        )
        self.record.seconds = elapsed_s
        # Without patience the last epoch is kept, so each counts as better than the one before.
        loss = metrics.loss if metrics and self.options.patience is not None else -float(epoch)
        if loss < self._best_loss:
            self.record.best_epoch, self._best_loss = epoch, loss
            self._best_weights = copy.deepcopy(self.measured_network.state_dict())

    def finish(self) -> None:
        """Give the network the weights of the best epoch, mixed with those it started with; set it to evaluation."""
        self._network.load_state_dict(self._best_weights)
        self._network.eval()
        for name, value in self._network.state_dict().items() if self._start else ():
            if value.is_floating_point():
                value.lerp_(self._start[name].to(value.device), self.options.start_share)

    def state(self, processes: Processes) -> dict[str, Any]:
        """Return all that determines the next epoch, as tensors and plain values. All processes must call this."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.module.state_dict() if self._average else None,
            "average_steps": int(self._average.n_averaged) - 1 if self._average else 0,
            "best": {"epoch": self.record.best_epoch, "loss": self._best_loss, "weights": self._best_weights},
            "start": self._start,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "order": self.batches.order.get_state(),
            "random": [processes.gather(state) for state in _random_states(processes.device)],
        }

    def restore(self, state: Mapping[str, Any], record: TrainingRecord, processes: Processes) -> None:
        """Continue from the state and the record of an interrupted phase."""
        self.record, self._started = record, time.monotonic() - record.seconds
        self._network.load_state_dict(_current_names(state["network"]))
        if self._average:
            self._average.module.load_state_dict(_current_names(state["average"]))
            self._average.n_averaged.fill_(state["average_steps"] + 1)
        self._best_loss, self._best_weights = state["best"]["loss"], _current_names(state["best"]["weights"])
        self._start = _current_names(state["start"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.batches.order.set_state(state["order"])
        _set_random_states([states[processes.rank] for states in state["random"]], processes.device)


def _current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by today's names: version 0.1.0 called a decoder's trainable stages `tail`."""
    return {re.sub(r"^tail\.", "trainable_stages.", name): value for name, value in weights.items()}


def _random_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's random generators that this process uses."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
