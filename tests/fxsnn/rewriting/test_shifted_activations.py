"""Wherever the ends of an activation are, it is one from zero up, shifted and scaled; nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsnn.layers import BoundedReLU
from fxsnn.rewriting.shifted_activations import ShiftedActivation, shifted_activation_of

places = st.floats(-50, 50)
widths = st.floats(1e-2, 1e2)
scales = st.floats(-20, 20).filter(lambda scale: abs(scale) > 1e-2)


def agrees(function: Callable[[Tensor], Tensor], found: ShiftedActivation) -> bool:
    x = torch.randn(999, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    return torch.allclose(function(x), found(x), rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(places, widths, scales, places)
def test_both_ends_may_lie_anywhere(begin: float, width: float, scale: float, offset: float) -> None:
    def function(x: Tensor) -> Tensor:
        return (x - begin).clamp(0, width) * scale + offset

    found = shifted_activation_of(function)
    assert found is not None
    assert isinstance(found.module, BoundedReLU)
    assert found.module.bound.levels is None
    assert found.module.bound.value == pytest.approx(width, rel=1e-9)
    assert agrees(function, found)


@settings(max_examples=40)
@given(places, scales, places, st.sampled_from((1, -1)))
def test_a_rectifier_may_begin_anywhere_on_either_side(begin: float, scale: float, offset: float, slope: int) -> None:
    def function(x: Tensor) -> Tensor:
        return (slope * (x - begin)).relu() * scale + offset

    found = shifted_activation_of(function)
    assert found is not None
    assert isinstance(found.module, nn.ReLU)
    assert agrees(function, found)


@settings(max_examples=40)
@given(st.floats(0.1, 50), st.integers(2, 128), st.floats(0, 0.99), scales)
def test_levels_may_begin_anywhere(top: float, levels: int, shift: float, scale: float) -> None:
    def function(x: Tensor) -> Tensor:
        return (x * (levels / top) + shift).floor().clamp(0, levels) * scale

    found = shifted_activation_of(function)
    assert found is not None
    assert isinstance(found.module, BoundedReLU)
    assert found.module.bound.levels == levels
    assert found.module.bound.value == pytest.approx(top, rel=1e-6)
    assert found.scale * top == pytest.approx(levels * scale, rel=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        torch.tanh,
        torch.abs,
        torch.sign,
        torch.zeros_like,
        torch.ones_like,
        F.silu,
        F.hardswish,
        F.elu,
        F.leaky_relu,
        F.softshrink,
        lambda x: x,
        lambda x: x.clamp(0, 1) ** 2,
        lambda x: x.clamp(-1, 1) + 1e-6 * (x > 3),
        lambda x: F.threshold(x, 0.5, 0),
        lambda x: (x.clamp(0, 1) * 4).ceil() / 4,  # of nothing it gives nothing, ours with a shift gives a level
        lambda x: (x > 0).double(),
        lambda x: (x.clamp(0, 1) ** 2 * 4).floor() / 4,
        lambda x: x.relu() / 0.0,
        lambda _: None,
    ],
)
def test_all_else_is_none(function: Callable[[Tensor], Tensor]) -> None:
    assert shifted_activation_of(function) is None
