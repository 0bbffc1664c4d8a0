"""Precision of stored numbers: fp32, fp16 or int8. Loaded weights always compute in float32.

int8 is symmetric with one scale per row: the tensor `name` holds integers, the tensor `name.scale` the scales, and a
number is integer times scale (per-channel quantization, Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

Shapes:  R rows, the first dimension   ... all others
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import BundleError

PRECISIONS = ("fp32", "fp16", "int8")
SCALE = ".scale"
LARGEST = 127
SHORTEST_ROW = 16
"""Shorter rows, such as the 9 numbers of a depthwise convolution, stay in half precision. They are 3 % of the numbers
of mobilenet_v2. In 8 bits they would change its features by 25 % instead of 17 %."""


Arrays = dict[str, NDArray[Any]]


def stored(tensors: Mapping[str, ArrayLike], precision: str) -> Arrays:
    """Return arrays as they are stored: contiguous, floats in this precision.

    int8 leaves arrays of one dimension (biases, batch norm) and short rows in half precision.

    Raises:
        BundleError: the precision is unknown, or a number is too large for it.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    written: Arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        is_float = np.issubdtype(array.dtype, np.floating)
        if precision == "int8" and is_float and _has_long_rows(array):
            written[name], written[name + SCALE] = quantized(array.astype(np.float32))
        else:
            with np.errstate(over="ignore"):  # numbers that are too large are refused below
                written[name] = array.astype(np.float16) if precision != "fp32" and is_float else array
    for name, value in written.items():
        if precision != "fp32" and not np.isfinite(value).all():
            raise BundleError(f"tensor {name!r} has numbers that {precision} cannot hold: store it as fp32")
    return {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in written.items()}


def restored(tensors: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return stored arrays in floating point: 8 bits become float32, half precision stays.

    Raises:
        BundleError: the scales of 8-bit numbers are missing or are not one number per row.
    """
    scaled = [name for name, value in tensors.items() if value.dtype == np.int8]
    scales = {name + SCALE for name in scaled}
    whole = {name: value for name, value in tensors.items() if name not in scales}
    return whole | {name: _rescaled(name, tensors[name], tensors.get(name + SCALE)) for name in scaled}


def single(values: NDArray[Any]) -> NDArray[Any]:
    """Return floating point numbers in single precision, and integers as they are."""
    return values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values


def quantized(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return integers [R, ...] from -127 to 127 and the scale of each row [R]. The error is at most half a scale.

    Args:
        values: float32 [R, ...].
    """
    flat = values.reshape(len(values), -1) if values.size else np.zeros((len(values), 1), np.float32)
    scale = np.abs(flat).max(axis=1) / np.float32(LARGEST)
    rows = np.maximum(scale, np.finfo(np.float32).tiny).reshape(-1, *[1] * (values.ndim - 1))
    return np.rint(values / rows).astype(np.int8), scale


def _has_long_rows(values: NDArray[Any]) -> bool:
    return values.ndim > 1 and math.prod(values.shape[1:]) >= SHORTEST_ROW


def _rescaled(name: str, integers: NDArray[Any], scale: NDArray[Any] | None) -> NDArray[np.float32]:
    if scale is None:
        raise BundleError(f"tensor {name!r} is stored in 8 bits, but its scales {name + SCALE!r} are missing")
    if not np.issubdtype(scale.dtype, np.floating) or scale.shape != integers.shape[:1]:
        raise BundleError(
            f"the scales of tensor {name!r} are damaged: expected {len(integers)} floats, one per row, got "
            f"{list(scale.shape)} of {scale.dtype}"
        )
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise BundleError(f"the scales of tensor {name!r} are damaged: they must be finite and 0 or more")
    rows = scale.astype(np.float32).reshape(-1, *[1] * (integers.ndim - 1))
    return integers.astype(np.float32) * rows
