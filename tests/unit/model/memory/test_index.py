"""The corrected images of a field, found by their likeness."""

import numpy as np
import pytest

from model.memory.index import MemoryIndex, Row

AXES = np.eye(8, dtype=np.float16)


def row(number: int, **changes: object) -> Row:
    values: dict[str, object] = {
        "name": f"{number}/caption",
        "image_key": f"image {number}",
        "task_id": number,
        "updated_at": f"2025-01-{number:02}",
        "caption": f"caption {number}",
        "was_written_unseen": False,
    }
    return Row(**values | changes)  # type: ignore[arg-type]


def names(rows: object) -> list[int]:
    return [int(row.name.split("/")[0]) for row in rows]  # type: ignore[attr-defined]


@pytest.fixture
def index() -> MemoryIndex:
    index = MemoryIndex(8)
    for number in range(1, 5):
        vector = AXES[number].astype(np.float32) + 0.1 * number * AXES[0]
        index.add(row(number), (vector / np.linalg.norm(vector)).astype(np.float16))
    return index


def test_the_most_alike_image_comes_first(index: MemoryIndex) -> None:
    image = (AXES[2] + 0.5 * AXES[3]).astype(np.float32)

    [nearest] = index.nearest(image[None])

    assert names(nearest.rows)[:2] == [2, 3]
    assert list(nearest.cosines) == sorted(nearest.cosines, reverse=True)
    assert np.allclose(nearest.vectors[0], index.vectors_of(["2/caption"])[0])


def test_a_row_that_was_removed_or_replaced_is_not_found_any_more(index: MemoryIndex) -> None:
    index.remove("2/caption")
    index.add(row(3, caption="another"), AXES[3])

    [nearest] = index.nearest(AXES[2:3].astype(np.float32))

    assert sorted(names(nearest.rows)) == [1, 3, 4]
    assert {row.caption for row in nearest.rows} == {"caption 1", "another", "caption 4"}
    assert not index.remove("2/caption")


def test_of_the_captions_of_one_image_the_newest_counts(index: MemoryIndex) -> None:
    index.add(row(9, image_key="image 2"), AXES[2])

    [nearest] = index.nearest(AXES[2:3].astype(np.float32))
    assert names(nearest.rows)[0] == 9
    assert 2 not in names(nearest.rows)
    assert names(index.newest(10).rows) == [1, 3, 4, 9]


def test_what_was_written_for_a_task_is_left_out_of_its_own_look_alikes(index: MemoryIndex) -> None:
    own, another = index.nearest(AXES[[2, 2]].astype(np.float32), [2, 7])

    assert 2 not in names(own.rows)
    assert names(another.rows)[0] == 2


def test_the_newest_that_are_wanted_come_oldest_first(index: MemoryIndex) -> None:
    assert names(index.newest(2).rows) == [3, 4]
    assert names(index.newest(2, lambda row: row.task_id != 4).rows) == [2, 3]


def test_thousands_of_rows_are_searched_as_few_are() -> None:
    index, draw = MemoryIndex(8), np.random.default_rng(0)
    vectors = draw.standard_normal((20_000, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    for number, vector in enumerate(vectors):
        index.add(row(number), vector)
    image = vectors[17_000].astype(np.float32)

    [nearest] = index.nearest(image[None])

    assert names(nearest.rows) == list(np.argsort(-(vectors.astype(np.float32) @ image), kind="stable")[:100])


def test_an_empty_index_finds_nothing() -> None:
    [nearest] = MemoryIndex(8).nearest(AXES[:1].astype(np.float32))

    assert not nearest.rows
