"""The file from which a training that was interrupted goes on."""

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
    """One file in the directory of the coming bundle; it is whole at every moment."""

    def __init__(self, folder: Path, identity: Mapping[str, str | float | None]) -> None:
        """Name the place.

        Args:
            folder: need not exist yet.
            identity: all that the training comes from, by names for people; another training must not go on from it.
        """
        self.path = folder / FILE
        self._identity = dict(identity)

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, on the CPU; None when there is nothing.

        Raises:
            TrainingError: it is damaged, or of another training; the message says in what they differ.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, weights_only=True, map_location="cpu")
            written_in, identity, state = saved["format"], saved["identity"], saved["state"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as cause:
            # Without torch's words: to a damaged file it says to load it as code.
            raise TrainingError(f"checkpoint {self.path} is damaged; delete it to begin the training anew") from cause
        differing = self._differences({"checkpoint format": written_in} | identity)
        if differing:
            raise TrainingError(
                f"the training that was interrupted in {self.path.parent} is another one: {differing}; run it as "
                f"before to go on, or choose another directory, or delete {self.path} to begin anew"
            )
        return dict(state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Put a checkpoint in place of the last one; when this returns it survives a crash.

        Args:
            state: tensors and plain values only, as `torch.load(weights_only=True)` reads them.
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
    """Delete the checkpoint of a training that has come to its end, if there is one."""
    remove_file(folder / FILE)
