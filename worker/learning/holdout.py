"""Which images of a project are for evaluation only, for ever.

The hash of an image's content decides. An image that looks like one that was used before goes where that one went,
or a photo saved once more would be trained on and measured on. What was decided stays, whatever comes later.

projects/<project>/holdout.json   image key -> [held out, fingerprint of the encoder, signature]

What looks alike is told by a perceptual hash of what the encoder sees (random hyperplanes, Charikar 2002,
https://doi.org/10.1145/509907.509965): of 150 photos and 300 drawn scenes no two were nearer than 59 bits of 256, and
copies saved with JPEG quality 40, cut by 5 per cent or made brighter were mostly within 33.

Shapes:  P image regions   D feature size   N images
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.store import Store
from worker.policy import is_held_out

SIGNATURE_BITS = 256
MAX_DISTANCE = 48
"""Bits in which the signatures of two images may differ that count as one."""


class Holdout:
    """The images of one project that were ever trained on or measured on. Only the project's retraining changes it."""

    def __init__(self, store: Store, project_id: int, encoder_fingerprint: str) -> None:
        self._store = store
        self._path = f"projects/{project_id}/holdout.json"
        self._encoder = encoder_fingerprint

    def decide(self, images: Mapping[str, Tensor]) -> dict[str, bool]:
        """Say of each image whether it is held out, and keep what is said of new ones.

        Args:
            images: image key to features [P, D]; of new ones the first comes first.

        Raises:
            StoreError: the decisions cannot be read or kept.
        """
        content = self._store.read(self._path)
        known: dict[str, tuple[bool, str, str]] = json.loads(content) if content else {}
        new = [key for key in images if key not in known]
        if new:
            known |= self._decide_new(new, _packed(signatures([images[key] for key in new])), known)
            self._store.write(self._path, json.dumps(known, separators=(",", ":")).encode())
        return {key: known[key][0] for key in images}

    def _decide_new(
        self, keys: Sequence[str], looks: NDArray[np.uint64], known: Mapping[str, tuple[bool, str, str]]
    ) -> dict[str, tuple[bool, str, str]]:
        comparable = [(held_out, seen) for held_out, encoder, seen in known.values() if encoder == self._encoder]
        answers = [held_out for held_out, _ in comparable]
        all_looks = np.concatenate([_parse([seen for _, seen in comparable]), looks])
        decided = {}
        for number, key in enumerate(keys, start=len(answers)):
            distances = np.bitwise_count(all_looks[:number] ^ all_looks[number]).sum(axis=1)
            alike = int(distances.argmin()) if number and distances.min() <= MAX_DISTANCE else None
            answers.append(is_held_out(key) if alike is None else answers[alike])
            decided[key] = (answers[number], self._encoder, _written(all_looks[number]))
        return decided


def signatures(features: Sequence[Tensor]) -> Tensor:
    """Return what each image looks like as bits [N, SIGNATURE_BITS]; where things are counts, not how much of each."""
    stacked = torch.stack(list(features)).float()
    shape = (stacked - stacked.mean(dim=1, keepdim=True)).flatten(1)  # [N, P * D]
    planes = torch.randn(shape.shape[1], SIGNATURE_BITS, generator=torch.Generator().manual_seed(0))
    return shape @ planes > 0


def _packed(bits: Tensor) -> NDArray[np.uint64]:
    """Return signatures as [N, SIGNATURE_BITS / 64], which are compared and kept 64 bits at a time."""
    return np.packbits(bits.numpy(), axis=1, bitorder="little").view(np.uint64)


def _written(signature: NDArray[np.uint64]) -> str:
    """Return the bits as one number in hexadecimal, the first bit being worth 1."""
    return signature.tobytes()[::-1].hex()


def _parse(written: Sequence[str]) -> NDArray[np.uint64]:
    """Read what `_written` returned, all at once: a project may know a hundred thousand images."""
    content = np.frombuffer(bytes.fromhex("".join(written)), np.uint8).reshape(-1, SIGNATURE_BITS // 8)
    return np.ascontiguousarray(content[:, ::-1]).view(np.uint64)
