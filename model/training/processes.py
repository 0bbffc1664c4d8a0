"""The processes that train one decoder together, as torchrun starts them; the first one measures, speaks and writes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from model.errors import TrainingError

WAIT_AT_MOST = timedelta(hours=2)
"""For the others, which may be encoding images or, the first one, measuring."""

CPU = torch.device("cpu")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which of the processes this is, and the device on which it trains. What it asks of the others, all must ask."""

    rank: int = 0
    """The first one has 0."""
    count: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of items that all of them have in the same order; it may be empty."""
        return items[self.rank :: self.count]

    def average_gradients(self, network: nn.Module, loss: Tensor, weight: float) -> float:
        """Put the mean gradient of all processes in place of this one's, and return the mean loss.

        Args:
            network: the same in all processes, after its backward pass.
            loss: of this process's part of the batch.
            weight: how much that part counts, such as its number of tokens; 0 for none.
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
        """Say whether it is so in any process."""
        return value if self.count == 1 else self.mean(float(value), 1.0) > 0

    def from_first(self, measure: Callable[[], Sequence[float]], size: int) -> list[float]:
        """Return what the first process measures, `size` numbers; the others wait for it."""
        if self.count == 1:
            return list(measure())
        measured = measure() if self.is_first else [0.0] * size
        told = torch.tensor(measured, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return told.tolist()

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of all processes, of the same size in each, in their order and on the CPU."""
        if self.count == 1:
            return [values]
        own = values.to(self.device)
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(gathered, own)
        return [one.cpu() for one in gathered]

    def start_alike(self, network: nn.Module) -> None:
        """Give the network the first process's weights in all of them."""
        if self.count > 1:
            for value in network.state_dict().values():
                distributed.broadcast(value, 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        self.any(False)


ALONE = Processes()


@contextmanager
def join_processes(device: str | None = None, environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Join the other processes if torchrun started this one, and leave them at the end.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; None takes a GPU if there is one. Of several processes on a machine each
            takes a GPU of its own.
        environment: says who this process is, in torchrun's variables.

    Raises:
        TrainingError: the device is unknown, not there, or already another process's.
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


def choose_device(name: str | None, local_rank: int = 0) -> torch.device:
    """Return the device of a name; None takes this process's GPU, or the CPU. One that is not there: TrainingError."""
    there = torch.cuda.device_count()
    if name is None:
        name = "cuda" if there else "cpu"
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
    if number >= there:
        raise TrainingError(f"GPU {number} is not there: torch finds {there}; use fewer processes, or the device cpu")
    return torch.device("cuda", number)
