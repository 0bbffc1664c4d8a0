"""Images of a project that are held out for evaluation only, for ever.

The hash of an image's content decides. An image that looks like an earlier one is treated like that one; otherwise a
photo saved again would be trained on and measured on. A decision that was made stays, whatever comes later.

projects/<project>/holdout.json   image key -> [held out, fingerprint of the encoder, signature]

Images that look alike have nearly the same signature, a perceptual hash of the encoder's features (random hyperplanes,
Charikar 2002, https://doi.org/10.1145/509907.509965): of 150 photos and 300 drawn scenes no two were nearer than 59
bits of 256, and copies saved with JPEG quality 40, cut by 5 per cent or made brighter were mostly within 33.

Shapes:  P image regions   D feature size   N images
"""

import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.store import Store
from worker.policy import is_held_out

logger = logging.getLogger(__name__)

SIGNATURE_BITS = 256
MAX_DISTANCE = 48
"""Bits in which the signatures of two images may differ that count as the same image."""


class Holdout:
    """Images of one project that were ever trained on or measured on. Only the project's retraining changes them."""

    def __init__(self, store: Store, project_id: int, encoder_fingerprint: str) -> None:
        self._store = store
        self._path = f"projects/{project_id}/holdout.json"
        self._encoder = encoder_fingerprint

    def decide(self, images: Mapping[str, Tensor]) -> dict[str, bool]:
        """Return for each image True if it is held out, and keep the decisions on new images.

        Args:
            images: image key to features [P, D]; new images are decided in this order.

        Raises:
            StoreError: the decisions cannot be read or kept.
        """
        decisions = self._read()
        new = [key for key in images if key not in decisions]
        if new:
            decisions |= self._decide_new(new, _packed(signatures([images[key] for key in new])), decisions)
            self._store.write(self._path, json.dumps(decisions, separators=(",", ":")).encode())
        return {key: decisions[key][0] for key in images}

    def _read(self) -> dict[str, tuple[bool, str, str]]:
        """Return the decisions that were kept. Damaged ones are put aside and made again, mostly by hash as before."""
        content = self._store.read(self._path)
        if content is None:
            return {}
        try:
            decisions = {
                key: (bool(held_out), str(encoder), str(text))
                for key, (held_out, encoder, text) in json.loads(content).items()
            }
            _parse([text for _, _, text in decisions.values()])
        except (ValueError, TypeError, AttributeError, RecursionError) as problem:
            aside = self._path.replace(".json", ".damaged.json")
            logger.warning("damaged decisions are put aside path=%s to=%s problem=%r", self._path, aside, problem)
            self._store.write(aside, content)
            return {}
        return decisions

    def _decide_new(
        self, keys: Sequence[str], new: NDArray[np.uint64], earlier: Mapping[str, tuple[bool, str, str]]
    ) -> dict[str, tuple[bool, str, str]]:
        """Decide on the images of these keys, whose signatures are `new`."""
        comparable = [(held_out, text) for held_out, encoder, text in earlier.values() if encoder == self._encoder]
        answers = [held_out for held_out, _ in comparable]
        all_signatures = np.concatenate([_parse([text for _, text in comparable]), new])
        decisions = {}
        for number, key in enumerate(keys, start=len(answers)):
            distances = np.bitwise_count(all_signatures[:number] ^ all_signatures[number]).sum(axis=1)
            alike = int(distances.argmin()) if number and distances.min() <= MAX_DISTANCE else None
            answers.append(is_held_out(key) if alike is None else answers[alike])
            decisions[key] = (answers[number], self._encoder, _as_text(all_signatures[number]))
        return decisions


def signatures(features: Sequence[Tensor]) -> Tensor:
    """Return the signature of each image as bits [N, SIGNATURE_BITS]; it depends on where things are in the image."""
    stacked = torch.stack(list(features)).float()
    shape = (stacked - stacked.mean(dim=1, keepdim=True)).flatten(1)  # [N, P * D]
    planes = torch.randn(shape.shape[1], SIGNATURE_BITS, generator=torch.Generator().manual_seed(0))
    return shape @ planes > 0


def _packed(bits: Tensor) -> NDArray[np.uint64]:
    """Return signatures as [N, SIGNATURE_BITS / 64], to compare and keep 64 bits at a time."""
    return np.packbits(bits.numpy(), axis=1, bitorder="little").view(np.uint64)


def _as_text(signature: NDArray[np.uint64]) -> str:
    """Return the bits as a number in hexadecimal; the first bit is worth 1."""
    return signature.tobytes()[::-1].hex()


def _parse(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Read texts of `_as_text`, all at once: a project may have a hundred thousand images."""
    content = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, SIGNATURE_BITS // 8)
    return np.ascontiguousarray(content[:, ::-1]).view(np.uint64)
