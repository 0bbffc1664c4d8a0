"""Base class of the ML backend: that of label-studio-ml where it is installed, else our own of the same shape.

label-studio-ml 1.0.9 pins Flask 1.1 and Werkzeug 2.0, which are obsolete and unsafe. pip cannot resolve these pins
beside ours, so the package is no declared dependency: make, Docker and Compose install it without its dependencies.
"""

import multiprocessing
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
    start_method = multiprocessing.get_start_method(allow_none=True)
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:
        return PlainBase
    # The import makes "spawn" the start method of the whole process. We undo that, so that a process
    # behaves the same with and without label-studio-ml.
    multiprocessing.set_start_method(start_method, force=True)
    return LabelStudioMLBase


BackendBase = _installed_base()
