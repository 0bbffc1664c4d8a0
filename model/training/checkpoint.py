"""The file from which an interrupted training resumes."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.errors import TrainingError
from model.store import remove_file, replaced_file

FILE = "checkpoint.pt"
FORMAT = 1


class Checkpoint:
    """One file in the output directory. It is replaced as a whole, so a reader never sees half of it."""

    def __init__(self, folder: Path, identity: Mapping[str, str | float | None]) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            folder: it need not exist yet.
            identity: everything that the training depends on, by names that users know. A checkpoint with another
                identity is refused.
        """
        self.path = folder / FILE
        self._identity = dict(identity)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, on the CPU; None when there is no file.

        Raises:
            TrainingError: the file is damaged or belongs to another training. The message lists the differences.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, weights_only=True, map_location="cpu")
            saved_format, identity, state = saved["format"], saved["identity"], saved["state"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as cause:
            # Torch's own message is left out: for a damaged file it advises to load it as code.
            raise TrainingError(f"checkpoint {self.path} is damaged; delete it to start the training again") from cause
        differences = self._differences({"checkpoint format": saved_format} | identity)
        if differences:
            raise TrainingError(
                f"the interrupted training in {self.path.parent} is another one: {differences}; repeat its command to "
                f"resume it, or choose another directory, or delete {self.path} to start again"
            )
        return dict(state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the last checkpoint. When this returns, the new one survives a crash.

        Args:
            state: only tensors and plain values, as `torch.load(weights_only=True)` reads them.
        """
        try:
            with replaced_file(self.path) as file:
                torch.save({"format": FORMAT, "identity": self._identity, "state": dict(state)}, file)
        except (OSError, RuntimeError) as cause:
            raise TrainingError(f"checkpoint {self.path} cannot be written: {cause}") from cause

    def _differences(self, saved: Mapping[str, Any]) -> str:
        own = {"checkpoint format": FORMAT} | self._identity
        return ", ".join(
            f"{name} was {saved.get(name)}, is {own.get(name)}"
            for name in [*own, *(name for name in saved if name not in own)]
            if saved.get(name) != own.get(name)
        )


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a completed training, if there is one."""
    remove_file(folder / FILE)
