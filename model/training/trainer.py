"""The trainer: it takes a network through the epochs of one or more phases, measures it, and can resume after a kill.

The phases are teacher forcing (model/training/teacher_forcing.py), rewards (model/training/rewards.py) and the two of
the encoder's distillation (model/training/distillation.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from model.errors import TrainingError
from model.progress import OnProgress, Progress
from model.training.checkpoint import Checkpoint
from model.training.phase import BatchSource, Network, Phase, PhaseOptions
from model.training.processes import ALONE, Processes
from model.training.training_record import EpochRecord, HeldOutMetrics, TrainingProgress, TrainingRecord

Measure = Callable[[Network], HeldOutMetrics]
OnStep = Callable[[TrainingProgress], None]


class Trainer:
    """Runs the phases of one training, in order."""

    def __init__(
        self,
        processes: Processes = ALONE,
        checkpoint: Checkpoint | None = None,
        on_epoch: Callable[[Sequence[EpochRecord]], None] | None = None,
    ) -> None:
        """Start a training, or resume the one in the checkpoint.

        Args:
            processes: train together; the first one measures and writes.
            checkpoint: file that is written after each epoch; None writes nothing.
            on_epoch: called after each epoch with the records of all epochs so far, of all phases.

        Raises:
            TrainingError: the checkpoint is damaged, belongs to another training, or is missing for some processes.
        """
        self.processes = processes
        self.interrupted: str | None = None
        """Name of the phase that resumes. The phases before it are complete."""
        self.records: dict[str, TrainingRecord] = {}
        """Records by name of phase, in order."""
        self._checkpoint, self._on_epoch = checkpoint, on_epoch
        self._state: dict[str, Any] = {}
        saved = checkpoint.load() if checkpoint else None
        if processes.any(saved is None) != (saved is None):
            raise TrainingError(
                "some processes find a checkpoint and others do not: use a directory that all of them can read"
            )
        if saved is not None:
            self.records = {phase: _parse_record(record) for phase, record in saved["records"].items()}
            self.interrupted, self._state = list(self.records)[-1], saved["state"]
            self._report_epochs()

    def run_phase(
        self,
        options: PhaseOptions,
        network: Network,
        optimizer: torch.optim.Optimizer,
        batches: BatchSource,
        measure: Measure[Network] | None = None,
        on_progress: OnStep | None = None,
    ) -> TrainingRecord:
        """Train the network in place; it ends with the averaged weights of the best epoch.

        A phase that was complete before an interruption is skipped, because the interrupted phase has newer weights.

        Args:
            options: length, seed and averaging.
            network: the same in all processes.
            measure: measures a network on held-out data after each epoch; None keeps the last epoch.
        """
        if options.phase in self.records and options.phase != self.interrupted:
            return self.records[options.phase]
        phase = Phase(options, network, optimizer, batches)
        torch.manual_seed(options.seed + self.processes.rank)
        if options.phase == self.interrupted:
            phase.restore(self._state, self.records[options.phase], self.processes)
            self.interrupted, self._state = None, {}
        self.records[options.phase] = phase.record
        while not self._is_over(phase):
            losses, rewards = self._run_epoch(phase, on_progress)
            phase.close_epoch(losses, rewards, self._measure(phase, measure))
            self._save(phase)
        phase.finish()
        return phase.record

    def _is_over(self, phase: Phase[Network]) -> bool:
        options, done = phase.options, len(phase.record.epochs)
        if done >= options.epochs or (options.patience is not None and phase.epochs_since_best >= options.patience):
            return True
        return done > 0 and self._is_out_of_time(phase)

    def _is_out_of_time(self, phase: Phase[Network]) -> bool:
        budget_s = phase.options.budget_s
        return budget_s < math.inf and self.processes.any(phase.elapsed_s() > budget_s)

    def _run_epoch(self, phase: Phase[Network], on_progress: OnStep | None) -> tuple[list[float], list[float]]:
        """Return the losses and rewards of the steps; a phase that teaches captions has no rewards."""
        losses: list[float] = []
        rewards: list[float] = []
        for step in phase.batches:
            losses.append(phase.take(step, self.processes))
            if step.reward is not None:
                rewards.append(self.processes.mean(step.reward, step.images))
            if on_progress:
                on_progress(phase.progress(-rewards[-1] if rewards else losses[-1]))
            if self._is_out_of_time(phase):
                break
        return losses, rewards

    def _measure(self, phase: Phase[Network], measure: Measure[Network] | None) -> HeldOutMetrics | None:
        if measure is None:
            return None
        return self.processes.from_first(lambda: measure(phase.measured_network))

    def _save(self, phase: Phase[Network]) -> None:
        if self._checkpoint is not None:
            state = phase.state(self.processes)
            if self.processes.is_first:
                records = {name: asdict(record) for name, record in self.records.items()}
                self._checkpoint.save({"records": records, "state": state})
        self._report_epochs()

    def _report_epochs(self) -> None:
        if self._on_epoch and self.processes.is_first:
            self._on_epoch([epoch for record in self.records.values() for epoch in record.epochs])


def _parse_record(record: Mapping[str, Any]) -> TrainingRecord:
    return TrainingRecord(**{**record, "epochs": [EpochRecord(**epoch) for epoch in record["epochs"]]})


def step_reporter(phase: str, on_progress: OnProgress) -> OnStep:
    """Return a function that shows a training's steps as progress of this phase."""

    def report(progress: TrainingProgress) -> None:
        note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f} {progress.eta_s:.0f} s left"
        on_progress(Progress(phase=phase, done=progress.step, total=progress.steps, note=note))

    return report
