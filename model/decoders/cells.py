"""Recurrent cells with one interface.

A cell gets its inputs already projected to its gates and adds the projection of its own hidden state. A cell without a
memory returns the memory unchanged.

Shapes:  ... any leading sizes   H hidden   G gates of the cell
"""

from typing import ClassVar

import torch
from torch import Tensor, nn


class Cell(nn.Module):
    """One step of one layer."""

    gates: ClassVar[int]
    """Number of vectors of size H in the inputs."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(hidden, self.gates * hidden, bias=False)

    def forward(self, inputs: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next hidden state and memory, [..., H] each.

        Args:
            inputs: projected with their bias, [..., G * H].
            hidden: the hidden state before, [..., H].
            memory: the memory before, [..., H].
        """
        raise NotImplementedError


class TanhCell(Cell):
    """h' = tanh(x + U h) (Elman 1990, https://doi.org/10.1207/s15516709cog1402_1)."""

    gates = 1

    def forward(self, inputs: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(inputs + self.recurrent(hidden)), memory


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078); it resets after the matrix product.

    r, z = sigmoid(x + U h)   n = tanh(x_n + r * U_n h)   h' = (1 - z) * n + z * h
    """

    gates = 3

    def forward(self, inputs: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        read_reset, read_keep, read_new = inputs.chunk(3, dim=-1)
        own_reset, own_keep, own_new = self.recurrent(hidden).chunk(3, dim=-1)
        keep = torch.sigmoid(read_keep + own_keep)
        new = torch.tanh(read_new + torch.sigmoid(read_reset + own_reset) * own_new)
        return torch.lerp(new, hidden, keep), memory


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735); its forget
    gate starts open.

    f, i, o = sigmoid(x + U h), with 1 added for f   n = tanh(x_n + U_n h)   c' = f * c + i * n   h' = o * tanh(c')
    """

    gates = 4

    def forward(self, inputs: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        forget, enter, leave, candidate = (inputs + self.recurrent(hidden)).chunk(4, dim=-1)
        memory = torch.sigmoid(forget + 1) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.sigmoid(leave) * torch.tanh(memory), memory


class PeepholeCell(Cell):
    """LSTM whose gates also read the memory (Gers and Schmidhuber 2000, https://doi.org/10.1109/IJCNN.2000.861302).

    f = sigmoid(x_f + U_f h + p_f * c + 1)   i = sigmoid(x_i + U_i h + p_i * c)
    c' = f * c + i * tanh(x_n + U_n h)       o = sigmoid(x_o + U_o h + p_o * c')   h' = o * tanh(c')
    """

    gates = 4

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden))

    def forward(self, inputs: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        forget, enter, leave, candidate = (inputs + self.recurrent(hidden)).chunk(4, dim=-1)
        to_forget, to_enter, to_leave = self.peepholes
        forget = torch.sigmoid(forget + to_forget * memory + 1)
        enter = torch.sigmoid(enter + to_enter * memory)
        memory = forget * memory + enter * torch.tanh(candidate)
        return torch.sigmoid(leave + to_leave * memory) * torch.tanh(memory), memory


CELLS: dict[str, type[Cell]] = {"lstm": LSTMCell, "peephole": PeepholeCell, "gru": GRUCell, "rnn": TanhCell}
"""By the names in bundles and in `captioner train --cell`."""
