"""The feature store: an encoder's features of images, computed once and kept in half precision.

Shapes:  P image regions   D feature size
"""

import io
import logging
import re
from collections.abc import Callable, Collection
from pathlib import PurePosixPath
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import StoreError
from model.store import Store

logger = logging.getLogger(__name__)

FOLDER = "features"
PARTS = 256
"""Folders of an encoder's features, named by the first two digits of the image keys."""
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': (False|True), 'shape': \((\d+), (\d+)\), \} *\n",
    re.DOTALL,
)
"""Header of a .npy file of float16 [P, D], as numpy writes it. numpy reads it with Python's own parser. That of Python
3.11 was seen to fail with a SystemError where several threads use it, so we do without."""


class FeatureStore:
    """Features of one encoder by image key. Several processes may use it at once.

    A file holds the features of one image, so processes that encode the same image write the same content.
    """

    def __init__(self, store: Store, encoder_fingerprint: str) -> None:
        self.store = store
        self.encoder_fingerprint = encoder_fingerprint

    @classmethod
    def of_all_encoders(cls, store: Store) -> list[Self]:
        """Return the feature stores of every encoder that ever wrote to this store."""
        return [cls(store, fingerprint) for fingerprint in store.names(FOLDER)]

    def get(self, image_key: str) -> NDArray[np.float16] | None:
        """Return float16 [P, D]; None if they must be computed.

        A damaged file is logged and counts as missing; the next `put` replaces it.
        """
        path = self._path(image_key)
        content = self.store.read(path)
        if content is None:
            return None
        try:
            return _parse_features(content)
        except ValueError as problem:
            logger.warning("features damaged path=%s bytes=%s problem=%s", path, len(content), problem)
            return None

    def has(self, image_key: str) -> bool:
        """Return True if there is a file of features, even a damaged one; much cheaper than reading it."""
        return self.store.exists(self._path(image_key))

    def put(self, image_key: str, features: ArrayLike) -> None:
        """Store [P, D] of any float type as float16.

        Raises:
            StoreError: they cannot be written, or half precision cannot hold their numbers.
        """
        values = np.asarray(features)
        if values.ndim != 2:
            raise StoreError(f"features must be [regions, channels], got shape {list(values.shape)}")
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise StoreError(f"features of image {image_key} have numbers that half precision cannot hold")
        file = io.BytesIO()
        np.save(file, half, allow_pickle=False)
        self.store.write(self._path(image_key), file.getvalue())

    def delete(self, image_key: str) -> bool:
        """Remove the features of an image; False if there were none."""
        path = self._path(image_key)
        is_there = self.store.exists(path)
        if is_there:
            self.store.delete(path)
        return is_there

    def _path(self, image_key: str) -> str:
        return f"{FOLDER}/{self.encoder_fingerprint}/{image_key[:2]}/{image_key}.npy"


def prune_features(store: Store, part: int, most_bytes: int, kept: Callable[[], Collection[str]]) -> int:
    """Remove the oldest features until those of a part of all images take no more than their share of `most_bytes`.

    Image keys are hashes, so each of the PARTS parts holds about as much as any other.

    Args:
        store: the model store.
        part: 0 to PARTS - 1.
        most_bytes: bound of all features together, of every encoder.
        kept: returns the keys of images whose features stay in any case; called only if something must go.

    Returns:
        the number of files that were removed.
    """
    folders = [f"{FOLDER}/{fingerprint}/{part:02x}" for fingerprint in store.names(FOLDER)]
    files = sorted((file for folder in folders for file in store.files(folder)), key=lambda file: file.written_at)
    excess = sum(file.bytes for file in files) - most_bytes // PARTS
    if excess <= 0:
        return 0
    stays, removed = kept(), 0
    for file in files:
        if excess > 0 and PurePosixPath(file.path).stem not in stays:
            store.delete(file.path)
            excess -= file.bytes
            removed += 1
    return removed


def _parse_features(content: bytes) -> NDArray[np.float16]:
    """Return float16 [P, D]; raises ValueError for anything else."""
    header = HEADER.match(content)
    if header is None:
        raise ValueError("expected a .npy file of float16 [regions, channels]")
    values = np.frombuffer(content, np.float16, offset=header.end())
    rows, columns = int(header[2]), int(header[3])
    turned = values.reshape(columns, rows).T if header[1] == b"True" else values.reshape(rows, columns)
    return turned.copy()
