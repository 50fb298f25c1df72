"""Counting activations: bounded memory, any order, quantiles to a tenth of a percent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsnn.calibration import Histogram
from fxsnn.errors import DataError

VALUES = st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=200)


def histogram(*parts: list[float]) -> Histogram:
    counted = Histogram()
    for part in parts:
        counted.add(torch.tensor(part))
    return counted


@given(values=VALUES, cut=st.integers(0, 200))
def test_the_order_and_the_cut_into_batches_do_not_matter(values: list[float], cut: int) -> None:
    whole, parts = histogram(values), histogram(values[cut:], values[:cut])
    assert torch.equal(whole.counts, parts.counts)
    assert (whole.zeros, whole.largest, whole.total) == (parts.zeros, parts.largest, len(values))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_are_those_of_all_values(share: float) -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    expected = float(np.quantile(values.numpy(), share))
    assert histogram(values.tolist()).quantile(share) == pytest.approx(expected, rel=3e-3, abs=1e-6)


def test_the_last_quantile_is_the_largest_value() -> None:
    assert histogram([1.0, 2.5, 2.7]).quantile(1.0) == pytest.approx(2.7)


def test_zeros_and_negative_values_count_as_zero() -> None:
    counted = histogram([-1.0, 0.0, 0.0, 4.0])
    assert (counted.zeros, counted.total) == (3, 4)
    assert counted.quantile(0.7) == 0


def test_the_share_from_a_value_on() -> None:
    assert histogram([0.0, 1.0, 2.0, 3.0]).share_from(2.0) == 0.5


def test_memory_does_not_grow_with_the_data() -> None:
    counted = Histogram()
    size = counted.counts.numel()
    for seed in range(20):
        counted.add(torch.rand(10_000, generator=torch.Generator().manual_seed(seed)) * 10.0**seed)
    assert counted.counts.numel() == size
    assert counted.total == 200_000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        histogram([1.0, value])
