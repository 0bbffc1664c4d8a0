"""Attention weights in the form in which pages show them: bytes of a grid.

Shapes:  T tokens   P image regions, row by row
"""

import math

import numpy as np
from numpy.typing import NDArray


def grid_columns(attention: NDArray[np.float32]) -> int:
    """Return the side of the square grid of regions; regions that fill no square are shown in one row."""
    regions = attention.shape[-1]
    side = math.isqrt(regions)
    return side if side * side == regions else max(regions, 1)


def hexadecimal(weights: NDArray[np.float32]) -> str:
    """Return the weights [P] as two hexadecimal digits each; the largest weight is ff."""
    greatest = float(weights.max()) if len(weights) else 0.0
    return bytes(round(255 * float(weight) / greatest) for weight in weights).hex() if greatest > 0 else ""
