"""Precision of stored numbers: fp32, fp16 or int8. Loaded weights always compute in float32.

int8 is symmetric with one scale per row: the tensor `name` holds integers, the tensor `name.scale` the scales, and a
number is integer times scale (per-channel quantization, Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

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
"""Shorter rows, such as the 9 numbers of a depthwise convolution, stay in half precision. They are 3 % of the numbers
of mobilenet_v2. In 8 bits they would change its features by 25 % instead of 17 %."""


def stored(tensors: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Return tensors as they are stored: contiguous, on the CPU, floats in this precision.

    int8 leaves tensors of one dimension (biases, batch norm) and short rows in half precision.

    Raises:
        BundleError: the precision is unknown, or a number is too large for it.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    written: dict[str, Tensor] = {}
    for name, value in tensors.items():
        tensor = value.detach().cpu()
        if precision == "int8" and tensor.is_floating_point() and _has_long_rows(tensor):
            written[name], written[name + SCALE] = quantized(tensor.float())
        else:
            written[name] = tensor.half() if precision != "fp32" and tensor.is_floating_point() else tensor
    for name, value in written.items():
        if precision != "fp32" and not value.isfinite().all():
            raise BundleError(f"tensor {name!r} has numbers that {precision} cannot hold: store it as fp32")
    return {name: value.contiguous() for name, value in written.items()}


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored tensors in floating point: 8 bits become float32, half precision stays.

    Raises:
        BundleError: the scales of 8-bit numbers are missing or are not one number per row.
    """
    scaled = [name for name, value in tensors.items() if value.dtype == torch.int8]
    scales = {name + SCALE for name in scaled}
    whole = {name: value for name, value in tensors.items() if name not in scales}
    return whole | {name: _rescaled(name, tensors[name], tensors.get(name + SCALE)) for name in scaled}


def quantized(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers [R, ...] from -127 to 127 and the scale of each row [R]. The error is at most half a scale.

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
