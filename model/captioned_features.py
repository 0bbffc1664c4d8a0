"""A caption with the features of its image: the unit that decoders learn from and are measured on.

Shapes:  P image regions   D feature size
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CaptionedFeatures:
    """One caption with the features of its image. Captions of the same image share the same tensor."""

    features: Tensor
    """Encoder output, [P, D], usually half precision."""
    caption: str
    weight: float = 1.0
    """Weight of this caption in the loss, relative to the other captions."""
    views: tuple[Tensor, ...] = ()
    """Features of other views of the image for which the caption is also true, [P, D] each."""
    paraphrases: tuple[str, ...] = ()
    """Captions of the same meaning that the decoder may know already (see model/training/self_distillation.py)."""
