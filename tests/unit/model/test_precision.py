import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

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
    values = torch.tensor(rows).view(-1, 16)

    back = restored(stored({"weight": values}, "int8"))["weight"]

    half_a_step = values.abs().amax(dim=1, keepdim=True) / 127 / 2
    assert back.dtype == torch.float32
    assert ((back - values).abs() <= half_a_step * (1 + 1e-5)).all()


@settings(deadline=None)  # the numbers matter here, not the time on a busy machine
@given(ROWS)
def test_storing_8_bits_again_changes_no_integer(rows: list[list[float]]) -> None:
    once = stored({"weight": torch.tensor(rows).view(-1, 16)}, "int8")

    twice = stored(restored(once), "int8")

    assert torch.equal(twice["weight"], once["weight"])
    assert torch.allclose(twice["weight.scale"], once["weight.scale"], rtol=1e-6, atol=0)


def test_every_row_has_a_scale_of_its_own_whatever_follows_the_first_dimension() -> None:
    kernels = torch.stack([torch.full((2, 3, 3), 0.001), torch.full((2, 3, 3), 1000.0)])

    written = stored({"conv": kernels}, "int8")

    assert written["conv"].shape == (2, 2, 3, 3)
    assert (written["conv"] == 127).all()
    assert written["conv.scale"].tolist() == pytest.approx([0.001 / 127, 1000 / 127])


def test_one_dimension_and_short_rows_stay_half_and_integers_stay_as_they_are() -> None:
    tensors = {
        "bias": torch.tensor([0.5, 1.25] * 16),
        "depthwise": torch.ones(64, 1, 3, 3),
        "batches": torch.tensor(70_000),
        "rows": torch.ones(2, 16, dtype=torch.int64),
    }

    written = stored(tensors, "int8")

    assert {name: value.dtype for name, value in written.items()} == {
        "bias": torch.float16,
        "depthwise": torch.float16,
        "batches": torch.int64,
        "rows": torch.int64,
    }
    assert all(torch.equal(restored(written)[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_other_precisions_keep_names_and_shapes(precision: str, dtype: torch.dtype) -> None:
    written = stored({"weight": torch.tensor([[0.5], [3.0]])}, precision)

    assert restored(written).keys() == written.keys() == {"weight"}
    assert written["weight"].dtype == dtype


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(BundleError, match="precision must be one of fp32, fp16, int8, got 'int4'"):
        stored({}, "int4")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_number_too_large_for_the_precision_is_refused_by_name(precision: str) -> None:
    with pytest.raises(BundleError, match=f"'variance' has numbers that {precision} cannot hold: store it as fp32"):
        stored({"variance": torch.tensor([1e5])}, precision)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, r"stored in 8 bits, but its scales 'weight\.scale' are missing"),
        (torch.ones(3), r"expected 2 floats, one per row, got \[3\]"),
        (torch.ones(2, dtype=torch.int64), "expected 2 floats"),
        (torch.tensor([1.0, torch.nan]), "must be finite and 0 or more"),
        (torch.tensor([1.0, -1.0]), "must be finite and 0 or more"),
    ],
)
def test_8_bits_without_their_scales_are_refused(scale: Tensor | None, message: str) -> None:
    written = {"weight": torch.ones(2, 4, dtype=torch.int8)} | ({} if scale is None else {"weight.scale": scale})

    with pytest.raises(BundleError, match=message):
        restored(written)
