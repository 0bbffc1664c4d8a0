"""The course of a training: epochs of steps, with the running average, the best epoch, and what is told and kept.

Its phases are teacher forcing (model/training/teacher_forcing.py) and reward (model/training/rewards.py).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Generic, Protocol

import torch
from torch import Tensor

from model.errors import TrainingError
from model.training.checkpoint import Checkpoint
from model.training.optimization import AFTER, Network, RunningAverage, delayed, update, warmup_then_cosine
from model.training.processes import ALONE, Processes
from model.training.training_record import EpochRecord, HeldOutMetrics, TrainingProgress, TrainingRecord


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a phase goes."""

    phase: str
    """`captions` or `rewards`; a course has each once."""
    epochs: int
    warmup_steps: int
    averaging: float
    clip_norm: float
    seed: int
    patience: int | None = None
    """Epochs without a better held-out loss before the phase ends, at its best epoch; None leaves it at its last."""
    budget_s: float = math.inf
    start_share: float = 0.0
    """Of the weights that the network came with in those with which it leaves (Wortsman et al. 2022,
    https://arxiv.org/abs/2109.01903): what it learned well before is then kept."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a network said of this process's part of a batch."""

    loss: Tensor
    weight: float
    """What the loss is a mean over, such as the number of tokens; 0 when there was no part for this process."""
    reward: float | None = None
    """Mean reward, where captions are rewarded."""
    images: int = 0
    """What the reward is a mean over."""


class Lessons(Protocol):
    """What is learned in an epoch, anew each time."""

    @property
    def order(self) -> torch.Generator:
        """Decides the order of an epoch, alike in all processes."""

    def __len__(self) -> int:
        """Return the number of steps."""

    def __iter__(self) -> Iterator[Step]:
        """Yield one step after the other; the network changes in between."""


class Course:
    """Takes a network through the phases of a training, after each epoch kept and told of if that is asked for."""

    def __init__(
        self,
        processes: Processes = ALONE,
        checkpoint: Checkpoint | None = None,
        on_epoch: Callable[[Sequence[EpochRecord]], None] | None = None,
    ) -> None:
        """Begin, or go on where an interrupted training was.

        Args:
            processes: train together; the first one measures, keeps and tells.
            checkpoint: where the training is kept after each epoch; None keeps nothing.
            on_epoch: told all epochs so far, of all phases, after each.

        Raises:
            TrainingError: the checkpoint is damaged, of another training, or not there for all processes.
        """
        self.processes = processes
        self.interrupted: str | None = None
        """The phase that goes on; those before it had ended."""
        self.records: dict[str, TrainingRecord] = {}
        """Of the phases so far, by name, in order."""
        self._checkpoint, self._on_epoch = checkpoint, on_epoch
        self._state: dict[str, Any] = {}
        found = checkpoint.load() if checkpoint else None
        if processes.any(found is None) != (found is None):
            raise TrainingError("the processes do not see the same directory: put it where all of them can read it")
        if found is not None:
            self.records = {phase: _parse_record(record) for phase, record in found["records"].items()}
            self.interrupted, self._state = list(self.records)[-1], found["state"]
            self._tell()

    def learn(
        self,
        plan: Plan,
        network: Network,
        optimizer: torch.optim.Optimizer,
        lessons: Lessons,
        held_out: Callable[[Network], HeldOutMetrics] | None = None,
        on_progress: Callable[[TrainingProgress], None] | None = None,
    ) -> TrainingRecord:
        """Take the network through a phase, in place; it leaves with its averaged weights of the best epoch.

        A phase that had ended before an interruption is passed over: the one after it brings the weights.

        Args:
            plan: how long, and what is averaged.
            network: alike in all processes.
            optimizer: of its parameters.
            lessons: the steps of an epoch.
            held_out: measures a network; None leaves it at its last epoch.
            on_progress: told after each step.
        """
        if plan.phase in self.records and plan.phase != self.interrupted:
            return self.records[plan.phase]
        phase = _Phase(plan, network, optimizer, lessons)
        torch.manual_seed(plan.seed + self.processes.rank)
        if plan.phase == self.interrupted:
            phase.restore(self._state, self.records[plan.phase], self.processes)
            self.interrupted, self._state = None, {}
        self.records[plan.phase] = phase.record
        while not self._is_over(phase):
            losses, rewards = self._learn_epoch(phase, on_progress)
            phase.close_epoch(losses, rewards, self._measure(phase, held_out))
            self._keep(phase)
        phase.leave()
        return phase.record

    def _is_over(self, phase: "_Phase[Network]") -> bool:
        plan, done = phase.plan, len(phase.record.epochs)
        if done >= plan.epochs or (plan.patience is not None and done - phase.best.epoch >= plan.patience):
            return True
        return done > 0 and self._is_spent(phase)

    def _is_spent(self, phase: "_Phase[Network]") -> bool:
        budget_s = phase.plan.budget_s
        return budget_s < math.inf and self.processes.any(phase.elapsed_s() > budget_s)

    def _learn_epoch(
        self, phase: "_Phase[Network]", on_progress: Callable[[TrainingProgress], None] | None
    ) -> tuple[list[float], list[float]]:
        """Return losses and rewards of the steps; where captions are taught there are no rewards."""
        losses: list[float] = []
        rewards: list[float] = []
        for step in phase.lessons:
            losses.append(phase.take(step, self.processes))
            if step.reward is not None:
                rewards.append(self.processes.mean(step.reward, step.images))
            if on_progress:
                on_progress(phase.progress(-rewards[-1] if rewards else losses[-1]))
            if self._is_spent(phase):
                break
        return losses, rewards

    def _measure(
        self, phase: "_Phase[Network]", held_out: Callable[[Network], HeldOutMetrics] | None
    ) -> HeldOutMetrics | None:
        if held_out is None:
            return None
        measured = self.processes.from_first(
            lambda: astuple(held_out(phase.average.network)), len(fields(HeldOutMetrics))
        )
        return HeldOutMetrics(*measured)

    def _keep(self, phase: "_Phase[Network]") -> None:
        if self._checkpoint is not None:
            state = phase.state(self.processes)
            if self.processes.is_first:
                records = {name: asdict(record) for name, record in self.records.items()}
                self._checkpoint.save({"records": records, "state": state})
        self._tell()

    def _tell(self) -> None:
        if self._on_epoch and self.processes.is_first:
            self._on_epoch([epoch for record in self.records.values() for epoch in record.epochs])


class _Phase(Generic[Network]):
    """A network on its way through one phase."""

    def __init__(self, plan: Plan, network: Network, optimizer: torch.optim.Optimizer, lessons: Lessons) -> None:
        self.plan, self.lessons = plan, lessons
        self.average = RunningAverage(network, plan.averaging)
        self.best = _Best(self.average.network)
        self.record = TrainingRecord()
        self._network, self._optimizer = network, optimizer
        self._start = copy.deepcopy(network.state_dict()) if plan.start_share else {}
        self._steps = plan.epochs * len(lessons)
        factor = warmup_then_cosine(plan.warmup_steps, self._steps)
        waits = [group.get(AFTER, 0.0) * self._steps for group in optimizer.param_groups]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [delayed(factor, wait) for wait in waits])
        self._learning_rate = 0.0
        self._started = time.monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds of this phase, those before an interruption included."""
        return time.monotonic() - self._started

    def take(self, step: Step, processes: Processes) -> float:
        """Change the network by one step and return the loss of the whole batch."""
        loss = update(
            self._network,
            self._optimizer,
            step.loss,
            self.plan.clip_norm,
            weight=step.weight,
            processes=processes,
        )
        self._learning_rate = float(self._optimizer.param_groups[0]["lr"])
        self._schedule.step()
        self.average.follow()
        self.record.steps += 1
        return loss

    def progress(self, loss: float) -> TrainingProgress:
        elapsed_s, done = self.elapsed_s(), self.record.steps
        eta_s = min(elapsed_s / done * (self._steps - done), self.plan.budget_s - elapsed_s)
        return TrainingProgress(
            epoch=len(self.record.epochs) + 1,
            epochs=self.plan.epochs,
            step=done,
            steps=self._steps,
            loss=loss,
            eta_s=max(eta_s, 0.0),
        )

    def close_epoch(self, losses: Sequence[float], rewards: Sequence[float], measured: HeldOutMetrics | None) -> None:
        """Record an epoch, and remember the network if it was never better."""
        epoch, elapsed_s = len(self.record.epochs) + 1, self.elapsed_s()
        self.record.epochs.append(
            EpochRecord(
                phase=self.plan.phase,
                epoch=epoch,
                train_loss=None if rewards else sum(losses) / len(losses),
                reward=sum(rewards) / len(rewards) if rewards else None,
                held_out_loss=measured.loss if measured else None,
                cider_d=measured.cider_d if measured else None,
                bleu_4=measured.bleu_4 if measured else None,
                learning_rate=self._learning_rate,
                seconds=elapsed_s - self.record.seconds,
            )
        )
        self.best.consider(epoch, measured.loss if measured and self.plan.patience is not None else -float(epoch))
        self.record.best_epoch, self.record.seconds = self.best.epoch, elapsed_s

    def leave(self) -> None:
        """Give the network the weights that the phase comes to."""
        self.best.restore(self._network)
        for name, value in self._network.state_dict().items() if self._start else ():
            if value.is_floating_point():
                value.lerp_(self._start[name].to(value.device), self.plan.start_share)

    def state(self, processes: Processes) -> dict[str, Any]:
        """Return all that the next epoch depends on, as tensors and plain values; every process must ask."""
        is_averaged = self.average.network is not self._network
        return {
            "network": self._network.state_dict(),
            "average": self.average.network.state_dict() if is_averaged else None,
            "average_steps": self.average.steps,
            "best": self.best.state(),
            "start": self._start,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "order": self.lessons.order.get_state(),
            "random": [processes.gather(state) for state in _random_states(processes.device)],
        }

    def restore(self, state: Mapping[str, Any], record: TrainingRecord, processes: Processes) -> None:
        """Become what returned this state and this record."""
        self.record, self._started = record, time.monotonic() - record.seconds
        self._network.load_state_dict(state["network"])
        if state["average"] is not None:
            self.average.network.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        self.best.load(state["best"])
        self._start = state["start"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.lessons.order.set_state(state["order"])
        _set_random_states([several[processes.rank] for several in state["random"]], processes.device)


class _Best(Generic[Network]):
    """Remembers the network at its best epoch."""

    def __init__(self, network: Network) -> None:
        self.epoch = 0
        self._network = network
        self._loss = math.inf
        self._weights: dict[str, Tensor] = {}

    def consider(self, epoch: int, loss: float) -> None:
        if loss < self._loss:
            self.epoch, self._loss = epoch, loss
            self._weights = copy.deepcopy(self._network.state_dict())

    def restore(self, network: Network) -> None:
        network.load_state_dict(self._weights)
        network.eval()

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "loss": self._loss, "weights": self._weights}

    def load(self, state: Mapping[str, Any]) -> None:
        self.epoch, self._loss, self._weights = state["epoch"], state["loss"], state["weights"]


def _random_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's generators that this process draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _parse_record(fields: Mapping[str, Any]) -> TrainingRecord:
    return TrainingRecord(**{**fields, "epochs": [EpochRecord(**epoch) for epoch in fields["epochs"]]})
