"""Codes, steps of least squared error and the straight-through gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsnn.numerics import Codebook, lowbit
from tests.codebooks import codebooks

BITS = (1, 2, 3, 4)


def weights(seed: int, rows: int = 3, columns: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Rows of unlike size, but all far above the floor of the steps, which has a test of its own.
    return torch.randn(rows, columns, generator=generator) * (torch.rand(rows, 1, generator=generator) + 0.1)


def squared_error(weight: torch.Tensor, step: torch.Tensor, bits: int) -> torch.Tensor:
    codes = lowbit.weight_codes(weight, step, Codebook.symmetric(bits))
    return (weight - codes * lowbit.spread(step, weight)).double().square().flatten(1).sum(1)


@given(seed=st.integers(0, 10_000), bits=st.sampled_from(BITS))
def test_codes_are_whole_numbers_within_the_range_of_their_bits(seed: int, bits: int) -> None:
    weight = weights(seed)
    codes = lowbit.weight_codes(weight, lowbit.fit_step(weight, Codebook.symmetric(bits)), Codebook.symmetric(bits))
    assert torch.equal(codes, codes.round())
    assert float(codes.abs().max()) <= Codebook.symmetric(bits).largest


@given(seed=st.integers(0, 10_000), bits=st.sampled_from(BITS))
def test_codes_are_the_clipped_rounded_ratio(seed: int, bits: int) -> None:
    weight = weights(seed)
    step = lowbit.fit_step(weight, Codebook.symmetric(bits))
    ratio = (weight / step[:, None]).numpy()
    limit = Codebook.symmetric(bits).largest
    expected = np.where(weight.numpy() >= 0, 1, -1) if bits == 1 else np.clip(np.rint(ratio), -limit, limit)
    assert np.array_equal(lowbit.weight_codes(weight, step, Codebook.symmetric(bits)).numpy(), expected)


def searched_step(weight: torch.Tensor, codebook: Codebook, *, per_channel: bool) -> torch.Tensor:
    """The search as it reads in words: every candidate tried on the whole layer, then refined; no floor."""
    rows = weight.double().flatten(1) if per_channel else weight.double().reshape(1, -1)
    if codebook.binary:
        return rows.abs().mean(1)

    def squared(step: torch.Tensor) -> torch.Tensor:
        return (rows - lowbit.weight_codes(rows, step, codebook) * step[:, None]).square().sum(1)

    sides = rows.amax(1) / codebook.levels[-1], rows.amin(1) / codebook.levels[0]
    widest = torch.maximum(*sides).clamp_min(torch.finfo(torch.float64).tiny)
    shares = torch.logspace(-1.5, math.log10(1.2), 256, dtype=torch.float64)
    best, least = widest, squared(widest)
    for share in shares:
        error = squared(widest * share)
        best, least = torch.where(error < least, widest * share, best), torch.minimum(error, least)
    for _ in range(8):
        codes = lowbit.weight_codes(rows, best, codebook)
        energy, product = codes.square().sum(1), (rows * codes).sum(1)
        step = torch.where((energy > 0) & (product > 0), product / energy.clamp_min(1), best)
        error = squared(step)
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return torch.where(rows.abs().amax(1) > 0, best, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    codebook=st.sampled_from(BITS).map(Codebook.symmetric) | codebooks(),
    shape=st.sampled_from([(1, 1), (1, 90), (2, 7), (3, 40), (9, 5), (16, 3, 3, 3)]),
    grain=st.sampled_from([0.0, 0.25, 1.0]),
    per_channel=st.booleans(),
    at_once=st.sampled_from([1, 16, 1 << 17]),
)
def test_a_search_in_pieces_finds_the_very_steps_of_one_over_the_whole_layer(
    seed: int, codebook: Codebook, shape: tuple[int, ...], grain: float, per_channel: bool, at_once: int
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = weight if grain == 0 else (weight / grain).round() * grain  # candidates then tie, and rows are empty
    expected = searched_step(weight, codebook, per_channel=per_channel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowbit, "_AT_ONCE", at_once)
        found = lowbit.fit_step(weight, codebook, per_channel=per_channel)
    live = expected > 0
    if bool(live.any()):
        median = expected[live].median()
        expected = torch.where(live, expected, median if 0 in codebook.levels else 0.0)
        assert torch.equal(found, lowbit.raised_to_floor(expected, median).float())
    else:
        assert torch.equal(found, torch.ones_like(found))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("size", [1e-160, 1e-30, 1e100, 1e160])
def test_steps_are_the_same_where_squares_leave_the_range_of_numbers(size: float, per_channel: bool) -> None:
    weight = weights(4).double() * size
    expected = searched_step(weight, Codebook.symmetric(4), per_channel=per_channel)
    assert torch.equal(lowbit.fit_step(weight, Codebook.symmetric(4), per_channel=per_channel), expected)


def test_at_one_bit_zero_counts_as_positive() -> None:
    assert lowbit.weight_codes(torch.zeros(1, 2), torch.ones(1), Codebook.symmetric(1)).tolist() == [[1, 1]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.sampled_from((2, 3, 4)))
def test_no_step_of_a_dense_grid_has_a_noticeably_smaller_error(seed: int, bits: int) -> None:
    weight = weights(seed)
    found = squared_error(weight, lowbit.fit_step(weight, Codebook.symmetric(bits)), bits)
    widest = weight.abs().amax(1) / Codebook.symmetric(bits).largest
    grid = torch.stack([squared_error(weight, widest * share, bits) for share in torch.linspace(0.02, 1.2, 600)])
    assert bool((found <= grid.amin(0) * 1.02 + 1e-12).all())


@given(seed=st.integers(0, 10_000), bits=st.sampled_from(BITS))
def test_the_step_beats_the_one_taken_from_the_maximum(seed: int, bits: int) -> None:
    weight = weights(seed)
    widest = weight.abs().amax(1) / Codebook.symmetric(bits).largest
    fitted = lowbit.fit_step(weight, Codebook.symmetric(bits))
    assert bool((squared_error(weight, fitted, bits) <= squared_error(weight, widest, bits)).all())


def test_at_one_bit_the_step_is_the_mean_magnitude() -> None:
    weight = weights(3)
    torch.testing.assert_close(lowbit.fit_step(weight, Codebook.symmetric(1)), weight.abs().mean(1))


def test_one_step_for_a_layer_or_one_for_each_channel() -> None:
    weight = weights(0).view(3, 5, 2, 3)
    assert lowbit.fit_step(weight, Codebook.symmetric(2), per_channel=False).shape == (1,)
    assert lowbit.fit_step(weight, Codebook.symmetric(2)).shape == (3,)


@pytest.mark.parametrize("bits", BITS)
def test_a_channel_that_has_nearly_died_gets_a_step_that_harms_no_other(bits: int) -> None:
    weight = weights(0)
    weight[1] *= 1e-6
    step = lowbit.fit_step(weight, Codebook.symmetric(bits))
    assert float(step[1]) == pytest.approx(float(step.median()) / 16)


@pytest.mark.parametrize("bits", BITS)
def test_a_channel_of_zeros_gets_the_median_step_and_at_one_bit_the_smallest(bits: int) -> None:
    weight = weights(0)
    weight[1] = 0
    step = lowbit.fit_step(weight, Codebook.symmetric(bits))
    median = float(step[[0, 2]].median())
    assert float(step[1]) == pytest.approx(median if bits > 1 else median / 16)


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_of_zeros_gets_a_positive_step(bits: int) -> None:
    assert bool((lowbit.fit_step(torch.zeros(2, 9), Codebook.symmetric(bits)) > 0).all())


@given(seed=st.integers(0, 10_000), bits=st.sampled_from(BITS))
def test_refitting_never_raises_the_error(seed: int, bits: int) -> None:
    weight = weights(seed)
    step = weight.abs().mean(1) * 0.8
    again = lowbit.refit_step(weight, lowbit.weight_codes(weight, step, Codebook.symmetric(bits)), step)
    assert bool((squared_error(weight, again, bits) <= squared_error(weight, step, bits) * (1 + 1e-5)).all())


def test_the_gradient_passes_straight_through_and_stops_beyond_the_grid() -> None:
    weight = torch.tensor([[0.1, -0.9, 1.4, 1.6, -5.0]], requires_grad=True)
    quantised = lowbit.quantize_weight(weight, torch.ones(1), Codebook.symmetric(2))
    quantised.sum().backward()
    assert quantised.tolist() == [[0, -1, 1, 1, -1]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 1, 1, 0, 0]]


def test_with_levels_of_any_kind_the_gradient_stops_half_a_gap_beyond_the_outermost() -> None:
    weight = torch.tensor([[-4.1, -3.9, 0.0, 7.0, 9.9, 10.1]], requires_grad=True)
    quantised = lowbit.quantize_weight(weight, torch.ones(1), Codebook((-3, -1, 1, 7)))
    quantised.sum().backward()
    assert quantised.tolist() == [[-3, -3, 1, 7, 7, 7]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 1, 1, 1, 1, 0]]


def test_with_levels_of_any_kind_the_gradient_to_a_step_is_that_of_the_paper() -> None:
    weight = torch.tensor([[-1.7, -0.3, 0.1, 2.1, 20.0, -20.0]], dtype=torch.float64)
    step = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    lowbit.quantize_weight(weight, step, Codebook((-3, -1, 1, 7))).sum().backward()
    expected = -3 + (-1 + 0.6) + (1 - 0.2) + (7 - 4.2) + 7 - 3  # -1.7 / 0.5 is beyond the lowest level
    assert step.grad is not None
    # Over the largest symmetric code of 2 bits, 1, and by the square of how much larger the levels are.
    assert float(step.grad) == pytest.approx(expected / 6**0.5 / 7**2)


def test_a_channel_of_zeros_gets_the_smallest_step_where_zero_is_no_level() -> None:
    weight = weights(0)
    weight[1] = 0
    step = lowbit.fit_step(weight, Codebook((-3, -1, 1, 3)))
    assert float(step[1]) == pytest.approx(float(step[[0, 2]].median()) / 16)


def test_at_one_bit_the_gradient_stops_beyond_three_steps() -> None:
    weight = torch.tensor([[0.0, -0.9, 5.9, -5.9, 6.1, -6.1]], requires_grad=True)
    lowbit.quantize_weight(weight, torch.tensor([2.0]), Codebook.symmetric(1)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_gradient_to_a_step_is_that_of_the_paper(bits: int) -> None:
    """Esser et al. 2020, eq. 3: code minus W / step inside the grid, else the code; times 1 / sqrt(weights * Q)."""
    limit = Codebook.symmetric(bits).largest
    weight = torch.tensor([[0.2, -0.6, 0.9, 20.0, -20.0]], dtype=torch.float64) / 2
    step = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    lowbit.quantize_weight(weight, step, Codebook.symmetric(bits)).sum().backward()
    expected = 0.0
    for ratio in (weight[0] / 0.5).tolist():
        code = (1 if ratio >= 0 else -1) if bits == 1 else min(max(round(ratio), -limit), limit)
        expected += code - ratio if bits > 1 and abs(ratio) < limit else code
    assert step.grad is not None
    assert float(step.grad) == pytest.approx(expected / (5 * limit) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_of_narrow_weights_are_those_of_the_very_ratio(dtype: torch.dtype) -> None:
    weight = weights(0, 20, 500).to(dtype)
    step = lowbit.fit_step(weight, Codebook.symmetric(4))
    expected = (weight.double() / step.double()[:, None]).round().clamp(-7, 7)
    assert torch.equal(lowbit.weight_codes(weight, step, Codebook.symmetric(4)).double(), expected)
