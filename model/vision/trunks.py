"""Networks of torchvision and timm without their pooling and classifier, by the names that these libraries use."""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from model.errors import BundleError
from model.vision.encoder_spec import SCENE_CNN

if TYPE_CHECKING:
    from types import ModuleType

Colours = tuple[float, float, float]
"""Of red, green and blue."""
POOLING = ("avgpool", "classifier", "fc")
"""Names of the layer after the feature map in torchvision's networks; some have a classifier and no pooling layer."""
POOLING_OF_TIMM = ("global_pool", "head", "head_drop", "fc", "classifier")
AUXILIARY = "aux"
"""Classifiers that torchvision uses only in training have names that begin with this."""
SIDE = 64
"""Side of the image by which the parts of a network of timm are tried."""
NAMED = 5
"""Names that are proposed in the place of an unknown one."""


def feature_trunk(name: str, weights: Path | str | None) -> nn.Module:
    """Return a network of torchvision or timm without its pooling and classifier.

    Args:
        name: as the libraries use it; torchvision goes first.
        weights: file of a state dict with classifier, the name of weights to download, or None for random weights.

    Raises:
        BundleError: the name is unknown, the network has no feature map, or the weights do not fit.
    """
    from torchvision import models  # imported here: it costs 1.6 s and 170 MB, and the scenes bundle does not need it

    names = models.list_models(module=models)
    if name in names:
        return _trunk_of_torchvision(name, weights)
    timm = _timm()
    if timm is None:
        more = "timm, which is not installed, knows more networks: pip install 'label-studio-captioner[timm]'"
        raise BundleError(f"encoder {name!r} is unknown: {_proposal(name, names)} {more}")
    if name not in (names_of_timm := timm.list_models()):
        raise BundleError(f"encoder {name!r} is unknown: {_proposal(name, [*names, *names_of_timm])}")
    return _trunk_of_timm(timm, name, weights)


def usual_colours(name: str) -> tuple[Colours, Colours] | None:
    """Return mean and deviation of the colours that a network of timm expects; None for any other network."""
    timm = None if name == SCENE_CNN else _timm()
    if timm is None:
        return None
    from torchvision import models

    if name in models.list_models(module=models) or name not in timm.list_models():
        return None
    settings = timm.get_pretrained_cfg(name)
    (r, g, b), (of_r, of_g, of_b) = settings.mean, settings.std
    return (r, g, b), (of_r, of_g, of_b)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict strictly; nothing but tensors is unpickled."""
    try:
        is_own = path.suffix == ".safetensors"
        weights = load(path.read_bytes()) if is_own else torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError, AttributeError) as cause:
        raise BundleError(f"encoder weights {path} do not fit {type(network).__name__}: {cause}") from cause


def _trunk_of_torchvision(name: str, weights: Path | str | None) -> nn.Module:
    from torchvision import models

    if weights is None or Path(weights).exists():
        whole = models.get_model(name, weights=None)
        if weights is not None:
            load_weights(whole, Path(weights))
    else:
        whole = models.get_model(name, weights=str(weights))
    stages = dict(whole.named_children())
    pooling = next((stage for stage in stages if stage in POOLING), None)
    if pooling is None:
        raise BundleError(f"encoder {name!r} has no feature map: choose a convolutional network")
    before = list(stages)[: list(stages).index(pooling)]
    needed = [stages[stage] for stage in before if not stage.lower().startswith(AUXILIARY)]
    trunk = [nn.Sequential(*stage) if isinstance(stage, nn.ModuleList) else stage for stage in needed]
    return trunk[0] if len(trunk) == 1 else nn.Sequential(*trunk)


def _trunk_of_timm(timm: "ModuleType", name: str, weights: Path | str | None) -> nn.Module:
    """Return the layers before the pooling, each a stage; or the whole as one stage where that gives another map."""
    is_file = weights is not None and Path(weights).exists()
    try:
        whole: nn.Module = timm.create_model(name, pretrained=weights is not None and not is_file)
    except (RuntimeError, OSError, ImportError) as cause:
        raise BundleError(f"encoder {name!r} cannot be made with weights {weights}: {cause}") from cause
    if is_file:
        load_weights(whole, Path(str(weights)))
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            grid: Tensor = whole.eval().forward_features(pixels)  # type: ignore[operator]
        except (RuntimeError, AssertionError, AttributeError):
            grid = torch.empty(0)
        if grid.dim() != 4:
            raise BundleError(f"encoder {name!r} has no feature map: choose a convolutional network")
        stages: list[nn.Module] = []
        for part, layers in whole.named_children():
            if part in POOLING_OF_TIMM:
                break
            stages += list(layers) if isinstance(layers, nn.Sequential) else [layers]
        trunk = nn.Sequential(*stages)
        try:
            is_same = torch.allclose(trunk(pixels), grid, atol=1e-4)
        except (RuntimeError, TypeError):
            is_same = False
    return trunk if is_same else _ForwardFeatures(whole)


class _ForwardFeatures(nn.Module):
    """A network of timm whose feature map is not the output of its layers one after another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return grid


def _timm() -> "ModuleType | None":
    """Return timm if it is installed."""
    if find_spec("timm") is None:
        return None
    import timm

    return timm


def _nearest(name: str, names: list[str]) -> list[str]:
    return get_close_matches(name, list(dict.fromkeys([SCENE_CNN, *names])), NAMED)


def _proposal(name: str, names: list[str]) -> str:
    nearest = _nearest(name, names)
    if nearest:
        return f"did you mean {', '.join(nearest)}?"
    return f"use {SCENE_CNN!r}, or a convolutional network of torchvision or timm."
