"""Base class of the ML backend: that of label-studio-ml where it is installed, else our own of the same shape.

label-studio-ml 1.0.9 pins Flask 1.1 and Werkzeug 2.0, which are obsolete and unsafe. pip cannot resolve these pins
beside ours, so the package is no declared dependency: make, Docker and Compose install it without its dependencies.
"""

import sys
from abc import ABC, abstractmethod
from typing import Any


class PlainBase(ABC):
    """The part of `label_studio_ml.model.LabelStudioMLBase` that a backend builds on."""

    def __init__(self, label_config: str | None = None, train_output: dict[str, Any] | None = None, **_: Any) -> None:
        self.label_config = label_config
        self.train_output = train_output or {}

    @abstractmethod
    def predict(self, tasks: Any, **kwargs: Any) -> Any: ...

    def fit(self, *_: Any, **kwargs: Any) -> Any:
        return {}


def _installed_base() -> Any:
    # label-studio-ml imports torch.multiprocessing, if it can, and lets it start processes by "spawn". We use neither,
    # so torch is hidden from it: a process without torch starts 2 s earlier and takes 300 MB less.
    hidden = {name: sys.modules.pop(name, None) for name in ("torch", "torch.multiprocessing")}
    sys.modules |= dict.fromkeys(hidden, None)  # type: ignore[arg-type]  # None makes an import fail
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:
        return PlainBase
    finally:
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return LabelStudioMLBase


BackendBase = _installed_base()
