"""A function is asked for its values: it is a ReLU, one with an upper end, one with levels, or none of these."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsnn.layers import BoundedReLU
from fxsnn.rewriting.activations import activation_of

tops = st.floats(1e-3, 1e3)
levels = st.integers(1, 128)


def clip_floor(x: Tensor, top: float, count: int, shift: float = 0.5) -> Tensor:
    return ((x / top).clamp(0, 1) * count + shift).floor() / count * top


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        lambda x: x.clamp_min(0) * 1.0,
        lambda x: (x + x.abs()) / 2,
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x * 3 * (x > 0) / 3,
    ],
)
def test_what_equals_a_relu_is_one(function: Callable[[Tensor], Tensor]) -> None:
    assert isinstance(activation_of(function), nn.ReLU)


@settings(max_examples=40)
@given(tops)
def test_an_upper_end_is_found_whatever_it_is(top: float) -> None:
    for function in (
        lambda x: x.clamp(0, top),
        lambda x: (x / top).clamp(0, 1) * top,
        lambda x: 0.5 * (x.abs() - (x - top).abs() + top),  # PACT, Choi et al. 2018, eq. 1
        lambda x: x.relu().minimum(torch.tensor(top, dtype=torch.float64)),
    ):
        found = activation_of(function)
        assert isinstance(found, BoundedReLU)
        assert found.bound.levels is None
        assert found.bound.value == pytest.approx(top, rel=1e-12)


@settings(max_examples=40)
@given(tops, levels)
def test_levels_are_counted(top: float, count: int) -> None:
    for function in (
        lambda x: clip_floor(x, top, count),
        lambda x: (x * (count / top) + 0.5).floor().clamp(0, count) * (top / count),
        lambda x: (x.clamp(0, top) * (count / top)).round() * (top / count),
    ):
        found = activation_of(function)
        assert isinstance(found, BoundedReLU)
        assert found.bound.value == pytest.approx(top, rel=1e-12)
        assert found.bound.levels == count


@settings(max_examples=40)
@given(tops, levels, st.floats(0, 0.99).filter(lambda shift: abs(shift - 0.5) > 1e-3))
def test_levels_at_other_places_are_not_those_of_neurons(top: float, count: int, shift: float) -> None:
    assert activation_of(lambda x: clip_floor(x, top, count, shift)) is None


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        torch.tanh,
        torch.abs,
        torch.zeros_like,
        torch.ones_like,
        lambda x: x,
        lambda x: -x.relu(),
        lambda x: 2 * x.relu(),
        lambda x: x.relu() + 1e-6,
        lambda x: x.clamp(-1, 1),
        lambda x: x.clamp(0.1, 1),
        lambda x: x.clamp(max=1),
        lambda x: x.clamp(0, 6) / 6,
        lambda x: (x - 1).clamp(0, 6),
        lambda x: x.clamp(0, 6) - 1e-6 * (x < 0),
        lambda x: nn.functional.leaky_relu(x, 1e-6),
        lambda x: nn.functional.hardswish(x),
        lambda x: x.relu().tanh(),
        lambda x: nn.functional.threshold(x, 1e-3, 0),
        lambda x: x.relu() + 0.01 * ((x > 3) & (x < 3.2)),
        lambda x: (x.clamp(0, 1) ** 2 * 4 + 0.5).floor() / 4,  # levels at uneven distances
        lambda x: (x.clamp(0, 1) * 4 + 0.5).floor() ** 2 / 16,  # levels of uneven heights
        lambda x: (x.clamp(0, 1) * 4).ceil() / 4,
        lambda x: (x * 4 + 0.5).floor() / 4,  # without ends
        lambda x: x.relu() / 0.0,
        lambda x: x.relu() + float("nan"),
        lambda _: None,
    ],
)
def test_all_else_is_none(function: Callable[[Tensor], Tensor]) -> None:
    assert activation_of(function) is None


def test_a_function_of_single_precision_is_equal_to_double_rounding_only() -> None:
    assert activation_of(lambda x: x.float().relu().double()) is None
