"""Attention as pages show it: where a decoder looked for each word, as bytes of a grid.

Shapes:  T tokens   P image regions, row by row
"""

import math

from torch import Tensor


def grid_columns(attention: Tensor) -> int:
    """Return the side of the grid of regions: encoders see squares, and their features are squares of regions."""
    regions = attention.shape[-1]
    side = math.isqrt(regions)
    return side if side * side == regions else max(regions, 1)


def hexadecimal(weights: Tensor) -> str:
    """Return the weights [P] as two digits each, the greatest being ff."""
    greatest = float(weights.max()) if len(weights) else 0.0
    return bytes(round(255 * float(weight) / greatest) for weight in weights).hex() if greatest > 0 else ""
