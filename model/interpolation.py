"""Decoders between two decoders: a step of any length from one towards the other.

The mean of the weights before and after a fine-tuning often keeps most of what was learned and loses less of what was
known (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
"""

import copy

import torch

from model.decoders.base import CaptionDecoder


@torch.no_grad()
def interpolated(before: CaptionDecoder, after: CaptionDecoder, alpha: float) -> CaptionDecoder:
    """Return before + alpha * (after - before), in evaluation mode.

    Args:
        before: a decoder of the same sizes as `after`.
        after: the decoder that it was trained to.
        alpha: 0 gives `before`, 1 gives `after`.
    """
    between = copy.deepcopy(after).eval()
    start = before.state_dict()
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            value.lerp_(start[name], 1 - alpha)
    return between
