"""Max pooling by one neuron a window: in numbers the maximum, in spikes whatever any neuron of the window does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsnn.layers import AnyPool2d, SpikeAnyPool2d, Taps
from fxsnn.numerics import Dynamics
from tests.nets import images

RESETS = ("subtraction", "zero")
DYNAMICS = st.builds(
    Dynamics, st.integers(1, 12), st.sampled_from(["subtraction", "zero"]), st.sampled_from([0.0, 0.5])
)


@st.composite
def windows(draw: Any) -> tuple[Taps, Taps]:
    """Of up to three places, with strides, padding and dilation of their own."""
    ceil = draw(st.booleans())

    def along() -> Taps:
        kernel = draw(st.integers(1, 3))
        return Taps(kernel, draw(st.integers(1, 4)), draw(st.integers(0, kernel // 2)), draw(st.integers(1, 2)), ceil)

    return along(), along()


def pooled(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """As PyTorch pools maxima."""
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    padding, dilation = (rows.padding, columns.padding), (rows.dilation, columns.dilation)
    return F.max_pool2d(x, kernel, stride, padding, dilation, rows.ceil)


def trains(rates: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Spikes [T, N, C, H, W] that know nothing of each other."""
    return torch.bernoulli(rates.expand(steps, *rates.shape), generator=torch.Generator().manual_seed(seed))


def spiking(rows: Taps, columns: Taps, dynamics: Dynamics, channels: int = 2) -> SpikeAnyPool2d:
    return SpikeAnyPool2d.compiled(AnyPool2d(rows, columns), torch.ones(channels, dtype=torch.float64), dynamics)


@given(windows(), DYNAMICS, st.sampled_from([0.1, 0.5, 0.9]), st.integers(5, 8), st.integers(5, 8))
def test_it_spikes_in_each_step_in_which_any_neuron_of_the_window_does(
    sides: tuple[Taps, Taps], dynamics: Dynamics, rate: float, height: int, width: int
) -> None:
    """Whatever the reset of the network and the start of its membranes."""
    given_ = trains(torch.full((2, 2, height, width), rate), dynamics.timesteps).flatten(0, 1)
    found = spiking(*sides, dynamics)(given_)
    assert torch.equal(found, pooled(given_, *sides))
    assert torch.equal(AnyPool2d(*sides)(given_), found)  # which is how the error budget looks at it


@given(windows(), DYNAMICS)
def test_its_rate_lies_between_the_maximum_and_the_sum(sides: tuple[Taps, Taps], dynamics: Dynamics) -> None:
    given_ = trains(torch.rand(1, 2, 7, 7), dynamics.timesteps)
    before = given_.mean(0)
    layer = spiking(*sides, dynamics)
    rates = layer(given_.flatten(0, 1)).unflatten(0, (dynamics.timesteps, -1)).mean(0)
    assert (rates >= pooled(before, *sides) - 1e-6).all()
    assert (rates <= layer.weighted_sum(before) + 1e-6).all()


def test_its_reset_is_to_zero_whatever_becomes_of_the_network() -> None:
    layer = spiking(Taps(2, 2), Taps(2, 2), Dynamics(4))
    layer.run_with(Dynamics(9, "subtraction", 0.0))
    assert layer.dynamics == Dynamics(9, "zero", 0.0)
    assert torch.equal(layer(torch.ones(9, 2, 2, 2)), torch.ones(9, 2, 1, 1))
    quiet = torch.zeros(9, 2, 2, 2)
    quiet[0] = 1
    assert layer(quiet).flatten().sum() == 2  # nothing is left of the four spikes but one in each channel


def test_the_reset_of_a_network_is_not_that_of_its_pooling(convert: Any) -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()
    snn = convert(nn.Sequential(*layers, nn.Linear(36, 3)).eval(), calibration_data=images(), max_pool="any")
    for reset in RESETS:
        snn.reset, snn.timesteps = reset, 5
        assert [snn.get_submodule(name).dynamics.reset for name in "023"] == [reset, "zero", reset]
        assert (snn.reset, snn.dynamics) == (reset, Dynamics(5, reset))


class TestRates:
    """With units, what neurons give that know nothing of each other."""

    def test_are_those_of_independent_spikes(self) -> None:
        rates, unit = torch.rand(1, 3, 6, 6, dtype=torch.float64), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
        rows, columns = Taps(3, 2, 1), Taps(2, 1, 0, 2, ceil=False)
        expected = AnyPool2d(rows, columns, unit)(rates * unit.view(-1, 1, 1)) / unit.view(-1, 1, 1)
        steps = 20_000
        found = spiking(rows, columns, Dynamics(steps), 3)(trains(rates, steps).flatten(0, 1).float())
        torch.testing.assert_close(found.unflatten(0, (steps, -1)).double().mean(0), expected, rtol=0, atol=0.02)

    def test_of_one_neuron_alone_are_its_own(self) -> None:
        rates = torch.rand(1, 2, 4, 4)
        torch.testing.assert_close(AnyPool2d(Taps(1), Taps(1), torch.ones(1))(rates), rates, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("rate", [0.0, 1.0])
    def test_at_the_ends_have_finite_gradients(self, rate: float) -> None:
        rates = torch.full((1, 1, 2, 2), rate, requires_grad=True)
        pool = AnyPool2d(Taps(2), Taps(2), torch.ones(1))(rates)
        pool.sum().backward()
        torch.testing.assert_close(pool.item(), rate, rtol=0, atol=1e-5)
        torch.testing.assert_close(rates.grad, torch.full((1, 1, 2, 2), 1 - rate), rtol=0, atol=1e-5)


def test_it_says_what_it_is() -> None:
    pool = AnyPool2d(Taps(3, 2, 1, 2, ceil=True), Taps(2, 1, 0, 1, ceil=True))
    assert str(pool) == "AnyPool2d(3x2, stride=(2, 1), padding=(1, 0), dilation=(2, 1), ceil)"
    assert str(AnyPool2d(Taps(2, 2), Taps(2, 2), torch.ones(1))) == "AnyPool2d(2x2, stride=(2, 2), of rates)"
