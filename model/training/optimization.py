"""Optimization: steps of gradient descent, the learning rate's schedule, bfloat16, and the average of the weights."""

import ctypes
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

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of glibc's malloc options (malloc.h)."""


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


def prepare_training(network: nn.Module, device: torch.device) -> None:
    """Make the training of a convolutional network faster on a CPU; its weights and outputs stay the same."""
    if device.type == "cpu":
        _replace_strided_depthwise(network)
        _keep_freed_memory()


class SubsampledConvolution(nn.Module):
    """A depthwise convolution of stride 2 that computes every position and drops every second.

    It gives the same values. Torch's gradient of the strided one is slow on a CPU with bfloat16.
    """

    def __init__(self, strided: nn.Conv2d) -> None:
        """Take over the weights of a convolution."""
        super().__init__()
        self.weight, self.bias = strided.weight, strided.bias
        self._padding, self._dilation, self._groups = strided.padding, strided.dilation, strided.groups

    def forward(self, images: Tensor) -> Tensor:
        every = nn.functional.conv2d(images, self.weight, self.bias, 1, self._padding, self._dilation, self._groups)
        return every[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)


def _replace_strided_depthwise(network: nn.Module) -> None:
    for name, part in network.named_children():
        if type(part) is nn.Conv2d:  # A subclass may pad in its own way, as timm's Conv2dSame does.
            is_depthwise = part.groups == part.in_channels > 1
            if is_depthwise and part.stride == (2, 2) and part.padding_mode == "zeros":
                setattr(network, name, SubsampledConvolution(part))
        else:
            _replace_strided_depthwise(part)


def _keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system.

    Large tensors come and go in each step of a convolutional network, and the system clears each new page: without this
    a step takes 1.4 times as long (tests/benchmarks/RESULTS.md). Only glibc has this option.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


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
