"""Optimization: steps of gradient descent, the learning rate's schedule, bfloat16, and the average of the weights."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from model.errors import TrainingError
from model.training.processes import ALONE, CPU, Processes

AFTER = "after"
"""Key of a parameter group: the share of the steps before it starts to learn. Groups without it start at once."""


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip_norm: float,
    *,
    weight: float = 1.0,
    processes: Processes = ALONE,
) -> float:
    """Take one step of gradient descent and return the loss of the whole batch.

    Args:
        loss: of this process's share of the batch.
        clip_norm: a longer gradient is shortened to this norm.
        weight: of this share, relative to the shares of other processes.
        processes: take the same step, with the gradient of the whole batch.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    mean = processes.average_gradients(network, loss.detach(), weight)
    if not math.isfinite(mean):
        raise TrainingError(f"the loss is no longer a number (got {mean}): lower the learning rate")
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return mean


def reduced_precision(wanted: bool = True, device: torch.device = CPU) -> torch.autocast:
    """Return a context that multiplies in bfloat16 if the device can; losses and weights stay in float32."""
    if device.type == "cuda":
        is_supported = torch.cuda.is_bf16_supported()
    else:
        # On a CPU without bfloat16 instructions it is slower than float32. Torch has no public function that asks.
        is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and is_supported)


def warmup_then_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> LambdaLR:
    """Return a schedule that raises the learning rates linearly from 0, then lowers them to 0 by half a cosine.

    It uses LambdaLR, because SequentialLR cannot start one parameter group later than the others (`AFTER`).
    SequentialLR also rounds differently, so the same seed would no longer give the same weights.

    Args:
        optimizer: its rates are the highest ones of the schedule.
        warmup_steps: steps until the highest rate; at most a tenth of all steps are used.
        steps: of the whole training.
    """
    warmup = min(warmup_steps, max(1, steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    def delayed(first_step: float) -> Callable[[int], float]:
        return lambda step: 0.0 if step < first_step else factor(step)

    return LambdaLR(optimizer, [delayed(group.get(AFTER, 0.0) * steps) for group in optimizer.param_groups])


def running_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a network's weights; `update_parameters` adds the weights of a step.

    The decay of step n is at most n / (n + 10), so that the first steps are not outweighed by the initial weights.
    """

    def average(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        limited = min(decay, int(steps) / (int(steps) + 10))
        for slow, fast in zip(averages, weights, strict=True):
            slow.lerp_(fast, 1 - limited)

    averaged = AveragedModel(network, multi_avg_fn=average)
    averaged.n_averaged += 1  # The initial weights count as the first ones; at 0 torch would replace them.
    return averaged
