"""Processes that train one network together, as torchrun starts them. The first one measures, prints and writes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from model.errors import TrainingError

WAIT_AT_MOST = timedelta(hours=2)
"""Time to wait for another process, which may be encoding images or measuring."""

CPU = torch.device("cpu")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's number among all, and its device. Methods that need the others must be called in all of them."""

    rank: int = 0
    """0 for the first one."""
    count: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share of items that all processes have in the same order; it may be empty."""
        return items[self.rank :: self.count]

    def average_gradients(self, network: nn.Module, loss: Tensor, weight: float) -> float:
        """Replace the gradients by their weighted mean over all processes, and return the mean loss.

        Not torch's DistributedDataParallel: it gives all processes the same weight, but their shares of a batch have
        different numbers of tokens.

        Args:
            network: the same in all processes, after its backward pass.
            loss: of this process's share of the batch.
            weight: of that share, such as its number of tokens; 0 for an empty share.
        """
        if self.count == 1:
            return loss.item()
        gradients = [value.grad for value in network.parameters() if value.grad is not None]
        totals = torch.cat(
            [*(gradient.flatten() for gradient in gradients), torch.stack([loss, torch.ones_like(loss)])]
        )
        totals *= weight
        distributed.all_reduce(totals)
        totals /= totals[-1].clone()
        means = torch.split(totals, [*(gradient.numel() for gradient in gradients), 1, 1])
        for gradient, mean in zip(gradients, means, strict=False):
            gradient.copy_(mean.view_as(gradient))
        return float(totals[-2])

    def mean(self, value: float, weight: float) -> float:
        """Return the weighted mean of all processes' values."""
        if self.count == 1:
            return value
        totals = torch.tensor([value * weight, weight], dtype=torch.float64, device=self.device)
        distributed.all_reduce(totals)
        return float(totals[0] / totals[1])

    def any(self, value: bool) -> bool:
        """Return True if the value is true in any process."""
        return value if self.count == 1 else self.mean(float(value), 1.0) > 0

    def from_first(self, measure: Callable[[], T]) -> T:
        """Return the result of the first process; the others wait for it."""
        result = [measure() if self.is_first else None]
        if self.count > 1:
            distributed.broadcast_object_list(result, 0)
        return cast(T, result[0])

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, in their order and on the CPU; all have the same size."""
        if self.count == 1:
            return [values]
        own = values.to(self.device)
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(gathered, own)
        return [tensor.cpu() for tensor in gathered]

    def start_alike(self, network: nn.Module) -> None:
        """Copy the first process's weights into the network of all processes."""
        if self.count > 1:
            for value in network.state_dict().values():
                distributed.broadcast(value, 0)

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.any(False)


ALONE = Processes()


@contextmanager
def join_processes(device: str | None = None, environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Yield this process's place among those that torchrun started, or a single process; leave the group at the end.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; None takes a GPU if there is one. Several processes on a machine take one GPU
            each.
        environment: holds torchrun's variables.

    Raises:
        TrainingError: the device is unknown, missing, or belongs to another process.
    """
    count, local_rank = int(environment.get("WORLD_SIZE", "1")), int(environment.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if count == 1:
        yield Processes(device=chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=WAIT_AT_MOST)
    try:
        yield Processes(rank=distributed.get_rank(), count=count, device=chosen)
    finally:
        distributed.destroy_process_group()


def moved(values: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield tensors on a device. A GPU copies them from pinned memory while it computes."""
    for value in values:
        yield value if device.type == "cpu" else value.pin_memory().to(device, non_blocking=True)


def choose_device(name: str | None, local_rank: int = 0) -> torch.device:
    """Return the named device; None takes this process's GPU, or the CPU if there is none.

    Raises:
        TrainingError: the device is unknown, missing, or belongs to another process.
    """
    count = torch.cuda.device_count()
    if name is None:
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as cause:
        raise TrainingError(f"the device must be cpu, cuda or cuda:N, got {name!r}") from cause
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise TrainingError(f"the device must be cpu, cuda or cuda:N, got {name!r}")
    if device.index is not None and local_rank > 0:
        raise TrainingError(f"each process needs a GPU of its own: give cuda instead of {name}")
    number = local_rank if device.index is None else device.index
    if number >= count:
        raise TrainingError(f"there is no GPU {number}: torch finds {count}; use fewer processes, or the device cpu")
    return torch.device("cuda", number)
