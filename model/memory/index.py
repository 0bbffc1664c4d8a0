"""The corrected images of one project and one field, to be found by their likeness.

    add, remove          a caption of an image comes, changes, goes; the newest caption of an image counts
    nearest(image)       the look-alikes of an image, the most alike first
    newest()             the newest of them, to judge them by each other

Vectors are kept in half precision: a hundred thousand corrections take about 100 MB with their captions.

Shapes:  N rows   V length of a vector   Q images to look for
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.memory.consensus import NEAREST
from model.memory.similarity import Rarity
from model.metrics.words import metric_words

BLOCK = 8192
"""Rows whose vectors are kept together, and turned into single precision at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A corrected image and its caption."""

    name: str
    """Of the correction."""
    image_key: str
    task_id: int
    updated_at: str
    """Sorts captions by age."""
    caption: str
    was_written_unseen: bool
    """The annotator saw no suggestion."""
    shown_by: Literal["memory", "decoder"] | None = None
    """Who made the caption that the annotator saw; None where he saw none, or where that is forgotten."""
    word_edits: int | None = None
    """From the suggested caption to the written one; None where there is only one of them."""

    @property
    def age(self) -> tuple[str, str]:
        """The higher, the newer."""
        return self.updated_at, self.name


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Look-alikes of an image."""

    rows: Sequence[Row]
    vectors: NDArray[np.float32]
    """[N, V]"""
    cosines: NDArray[np.float32]
    """[N]"""


class MemoryIndex:
    """Rows and their vectors. Not safe to share between threads."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._blocks: list[NDArray[np.float16]] = []
        self._rows: list[Row] = []
        self._places: dict[str, int] = {}
        self._counted: dict[str, str] = {}
        self.rarity = Rarity()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def names(self) -> Iterable[str]:
        return self._places

    def add(self, row: Row, vector: NDArray[np.float16]) -> None:
        """Add a row, or replace the row of the same name."""
        self.remove(row.name)
        place = len(self._rows)
        if place == BLOCK * len(self._blocks):
            self._blocks.append(np.zeros((BLOCK, self._length), np.float16))
        self._blocks[place // BLOCK][place % BLOCK] = vector
        self._rows.append(row)
        self._places[row.name] = place
        if self.rarity.add(metric_words(row.caption)):
            self._counted[row.name] = row.caption

    def remove(self, name: str) -> bool:
        """Remove the row of this name; False where there is none."""
        place = self._places.pop(name, None)
        if place is None:
            return False
        last = self._rows.pop()
        if last.name != name:
            self._rows[place] = last
            end = len(self._rows)
            self._blocks[place // BLOCK][place % BLOCK] = self._blocks[end // BLOCK][end % BLOCK]
            self._places[last.name] = place
        if (caption := self._counted.pop(name, None)) is not None:
            self.rarity.remove(metric_words(caption))
        return True

    def nearest(self, images: NDArray[np.float32], task_ids: Sequence[int] = ()) -> list[Nearest]:
        """Return the NEAREST look-alikes of each image, the most alike first; of each image its newest caption.

        Args:
            images: vectors of the images, [Q, V].
            task_ids: of the images. Rows of an image's own task are left out: nobody is shown what was written for
                his own task.
        """
        cosines = self._cosines(images)
        # More than enough, because some are left out below.
        count = min(len(self._rows), 2 * NEAREST)
        found = []
        for number, of_image in enumerate(cosines):
            order = np.argpartition(-of_image, count - 1)[:count] if count else np.zeros(0, np.int64)
            task_id = task_ids[number] if task_ids else None
            places = self._distinct(order[np.argsort(-of_image[order])], task_id)[:NEAREST]
            found.append(self._nearest(places, of_image[places]))
        return found

    def newest(self, count: int, is_wanted: Callable[[Row], bool] = lambda _: True) -> Nearest:
        """Return the newest rows that are wanted, oldest first; of each image its newest caption."""
        order = sorted(range(len(self._rows)), key=lambda place: self._rows[place].age, reverse=True)
        wanted = (place for place in self._distinct(order, None) if is_wanted(self._rows[place]))
        places = list(islice(wanted, count))[::-1]
        return self._nearest(places, np.ones(len(places), np.float32))

    def vectors_of(self, names: Iterable[str]) -> NDArray[np.float16]:
        """Return the vectors of those of these rows that are here, [N, V]."""
        return self._vectors([self._places[name] for name in names if name in self._places])

    def _vectors(self, places: Sequence[int]) -> NDArray[np.float16]:
        vectors = [self._blocks[place // BLOCK][place % BLOCK] for place in places]
        return np.stack(vectors) if vectors else np.zeros((0, self._length), np.float16)

    def _nearest(self, places: Sequence[int], cosines: NDArray[np.float32]) -> Nearest:
        vectors = self._vectors(places).astype(np.float32)
        return Nearest(rows=[self._rows[place] for place in places], vectors=vectors, cosines=cosines)

    def _cosines(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine of each image with each row, [Q, N]."""
        cosines = np.zeros((len(images), len(self._rows)), np.float32)
        for number, block in enumerate(self._blocks):
            start, end = number * BLOCK, min((number + 1) * BLOCK, len(self._rows))
            if start < end:
                cosines[:, start:end] = images @ block[: end - start].astype(np.float32).T
        return cosines

    def _distinct(self, order: Sequence[int] | NDArray[np.int64], task_id: int | None) -> list[int]:
        """Return the places in this order, of each image only the one with its newest caption."""
        newest: dict[str, int] = {}
        for place in map(int, order):
            row = self._rows[place]
            other = newest.get(row.image_key)
            if other is None or self._rows[other].age < row.age:
                newest[row.image_key] = place
        chosen = set(newest.values())
        return [place for place in map(int, order) if place in chosen and self._rows[place].task_id != task_id]
