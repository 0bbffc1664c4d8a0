from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

from model.errors import BundleError
from model.precision import restored, stored

# Weights, not numbers at the edge of float32, where a scale has no digits left.
NUMBERS = st.floats(-1e4, 1e4, width=32).map(lambda number: number if abs(number) > 1e-30 else 0.0)
ROWS = st.lists(st.lists(NUMBERS, min_size=16, max_size=16), max_size=5)


@settings(deadline=None)  # the numbers matter here, not the time on a busy machine
@given(ROWS)
@example([[0.0] * 16, [1e4, 1.0, -1e-4, 0.0] * 4])
@example([])
def test_8_bits_move_a_number_by_half_a_step_of_its_row_at_most(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32).reshape(-1, 16)

    back = restored(stored({"weight": values}, "int8"))["weight"]

    half_a_step = np.abs(values).max(axis=1, keepdims=True) / 127 / 2
    assert back.dtype == np.float32
    assert (np.abs(back - values) <= half_a_step * (1 + 1e-5)).all()


@settings(deadline=None)  # the numbers matter here, not the time on a busy machine
@given(ROWS)
def test_storing_8_bits_again_changes_no_integer(rows: list[list[float]]) -> None:
    once = stored({"weight": np.array(rows, np.float32).reshape(-1, 16)}, "int8")

    twice = stored(restored(once), "int8")

    assert np.array_equal(twice["weight"], once["weight"])
    assert np.allclose(twice["weight.scale"], once["weight.scale"], rtol=1e-6, atol=0)


def test_every_row_has_a_scale_of_its_own_whatever_follows_the_first_dimension() -> None:
    kernels = np.stack([np.full((2, 3, 3), number, np.float32) for number in (0.001, 1000)])

    written = stored({"conv": kernels}, "int8")

    assert written["conv"].shape == (2, 2, 3, 3)
    assert (written["conv"] == 127).all()
    assert written["conv.scale"].tolist() == pytest.approx([0.001 / 127, 1000 / 127])


def test_one_dimension_and_short_rows_stay_half_and_integers_stay_as_they_are() -> None:
    tensors = {
        "bias": np.array([0.5, 1.25] * 16, np.float32),
        "depthwise": np.ones((64, 1, 3, 3), np.float32),
        "batches": np.array(70_000),
        "rows": np.ones((2, 16), np.int64),
    }

    written = stored(tensors, "int8")

    assert {name: value.dtype for name, value in written.items()} == {
        "bias": np.float16,
        "depthwise": np.float16,
        "batches": np.int64,
        "rows": np.int64,
    }
    assert all(np.array_equal(restored(written)[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("fp32", np.float32)])
def test_other_precisions_keep_names_and_shapes(precision: str, dtype: DTypeLike) -> None:
    written = stored({"weight": np.array([[0.5], [3.0]], np.float32)}, precision)

    assert restored(written).keys() == written.keys() == {"weight"}
    assert written["weight"].dtype == dtype


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(BundleError, match="precision must be one of fp32, fp16, int8, got 'int4'"):
        stored({}, "int4")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_number_too_large_for_the_precision_is_refused_by_name(precision: str) -> None:
    with pytest.raises(BundleError, match=f"'variance' has numbers that {precision} cannot hold: store it as fp32"):
        stored({"variance": np.array([1e5], np.float32)}, precision)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, r"stored in 8 bits, but its scales 'weight\.scale' are missing"),
        (np.ones(3, np.float32), r"expected 2 floats, one per row, got \[3\]"),
        (np.ones(2, np.int64), "expected 2 floats"),
        (np.array([1.0, np.nan], np.float32), "must be finite and 0 or more"),
        (np.array([1.0, -1.0], np.float32), "must be finite and 0 or more"),
    ],
)
def test_8_bits_without_their_scales_are_refused(scale: NDArray[Any] | None, message: str) -> None:
    written = {"weight": np.ones((2, 4), np.int8)} | ({} if scale is None else {"weight.scale": scale})

    with pytest.raises(BundleError, match=message):
        restored(written)
