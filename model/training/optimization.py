"""Gradient descent: one step of it, its rate and precision, and the average of the weights it passes through."""

import copy
import math
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from model.errors import TrainingError
from model.training.processes import ALONE, CPU, Processes

Network = TypeVar("Network", bound=nn.Module)


AFTER = "after"
"""Of a group of parameters: the share of the steps before it learns, if that is not 0."""


def update(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip_norm: float,
    *,
    weight: float = 1.0,
    processes: Processes = ALONE,
) -> float:
    """Take one step of gradient descent, with the gradient's norm clipped, and return the loss.

    Args:
        network: holds the weights.
        optimizer: of these weights.
        loss: of this process's part of the batch.
        clip_norm: the longest gradient.
        weight: how much that part counts beside those of other processes.
        processes: take the same step, with the gradient of the whole batch.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    mean = processes.average_gradients(network, loss.detach(), weight)
    if not math.isfinite(mean):
        raise TrainingError("the loss is no longer a number: lower the learning rate")
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return mean


def reduced_precision(wanted: bool = True, device: torch.device = CPU) -> torch.autocast:
    """Products in bfloat16 inside this context, where the device has it; losses and weights stay in float32."""
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported()
    else:
        # Without such instructions bfloat16 is slower than float32; torch has no public question for it.
        has_it = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_it)


def warmup_then_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear up from 0, then half a cosine down to 0."""
    warmup = min(warmup_steps, max(1, steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def delayed(factor: Callable[[int], float], steps: float) -> Callable[[int], float]:
    """Return the factor with 0 for so many steps before it."""
    return lambda step: 0.0 if step < steps else factor(step)


class RunningAverage(Generic[Network]):
    """A network that follows another one's weights slowly; with a decay of 0 it is that other one."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network) if decay else network
        self.steps = 0
        self._followed, self._decay = network, decay

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights of one more step; the first ones count more, as there are few."""
        if self.network is self._followed:
            return
        self.steps += 1
        decay = min(self._decay, self.steps / (self.steps + 10))
        for slow, fast in zip(self.network.parameters(), self._followed.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for behind, ahead in zip(self.network.buffers(), self._followed.buffers(), strict=True):
            behind.copy_(ahead)
