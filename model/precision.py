"""How many bits a stored number has. Precision is a matter of storage: what is loaded computes in float32.

int8 is symmetric with one scale per row: of a tensor `name` there are the integers and `name.scale`, and its numbers
are integer times scale of the row (per-channel quantization, Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

Shapes:  R rows, the first dimension   ... all others
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.errors import BundleError

PRECISIONS = ("fp32", "fp16", "int8")
SCALE = ".scale"
LARGEST = 127
SHORTEST_ROW = 16
"""Of shorter rows, such as the 9 numbers of a depthwise convolution, 8 bits and their scale save little and lose much:
with them half the features of mobilenet_v2 move by 17 % instead of 25 %, for 3 % of its numbers."""


def stored(tensors: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Return tensors as they are written: contiguous, on the CPU, floats in this precision.

    In int8 floats of one dimension (biases, batch norm) and short rows are half: a scale for each saves nothing.

    Raises:
        BundleError: the precision is unknown, or a number is too large for it.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    written: dict[str, Tensor] = {}
    for name, value in tensors.items():
        kept = value.detach().cpu()
        if precision == "int8" and kept.is_floating_point() and _has_long_rows(kept):
            written[name], written[name + SCALE] = quantized(kept.float())
        else:
            written[name] = kept.half() if precision != "fp32" and kept.is_floating_point() else kept
    for name, value in written.items():
        if precision != "fp32" and not value.isfinite().all():
            raise BundleError(f"tensor {name!r} has numbers that {precision} cannot hold: store it as fp32")
    return {name: value.contiguous() for name, value in written.items()}


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as they were before `stored`: 8 bits become float32, half stays half.

    Raises:
        BundleError: the scales of 8-bit numbers are missing or are not one number per row.
    """
    scaled = [name for name, value in tensors.items() if value.dtype == torch.int8]
    scales = {name + SCALE for name in scaled}
    whole = {name: value for name, value in tensors.items() if name not in scales}
    return whole | {name: _rescaled(name, tensors[name], tensors.get(name + SCALE)) for name in scaled}


def quantized(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers [R, ...] from -127 to 127 and the scale of each row [R]; no number moves more than half a scale.

    Args:
        values: float32 [R, ...].
    """
    scale = values.flatten(1).abs().amax(dim=1) / LARGEST if values.numel() else values.new_zeros(len(values))
    rows = scale.clamp(min=torch.finfo(torch.float32).tiny).view(-1, *[1] * (values.dim() - 1))
    return (values / rows).round().to(torch.int8), scale


def _has_long_rows(values: Tensor) -> bool:
    return values.dim() > 1 and values.shape[1:].numel() >= SHORTEST_ROW


def _rescaled(name: str, integers: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        raise BundleError(f"tensor {name!r} is stored in 8 bits, but its scales {name + SCALE!r} are missing")
    if not scale.is_floating_point() or scale.shape != integers.shape[:1]:
        raise BundleError(
            f"the scales of tensor {name!r} are damaged: expected {len(integers)} floats, one per row, got "
            f"{list(scale.shape)} of {scale.dtype}"
        )
    if not (scale.isfinite() & (scale >= 0)).all():
        raise BundleError(f"the scales of tensor {name!r} are damaged: they must be finite and 0 or more")
    return integers.float() * scale.float().view(-1, *[1] * (integers.dim() - 1))
