"""The integrate-and-fire neuron by hand, and integers that fit their registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxsnn.chip import Registers
from fxsnn.errors import OptionError
from fxsnn.numerics import (
    Codebook,
    Dynamics,
    IntegerNeuron,
    RegisterError,
    integer_neuron,
    integrate_and_fire,
    steady_spike_counts,
)
from fxsnn.numerics.neuron import INITIAL_MEMBRANES, RESETS

REGISTERS = Registers(codebook=11, threshold=18, leak=19)


def spikes(drive: list[int], threshold: int, **options: object) -> list[int]:
    """Spikes of one neuron under a drive."""
    dynamics = Dynamics(timesteps=len(drive), **options)  # type: ignore[arg-type]
    given_drive = torch.tensor(drive, dtype=torch.int32).view(-1, 1, 1)
    fired = integrate_and_fire(given_drive, torch.tensor([threshold], dtype=torch.int32), dynamics)
    return [int(value) for value in fired.flatten()]


def test_subtraction_keeps_what_lies_above_the_threshold() -> None:
    # V: 5 -> 12 fire 2 -> 9 -> 16 fire 6 -> 13 fire 3
    assert spikes([7, 7, 7, 7], 10) == [1, 0, 1, 1]


def test_zero_throws_it_away() -> None:
    # V: 5 -> 12 fire 0 -> 7 -> 14 fire 0 -> 7
    assert spikes([7, 7, 7, 7], 10, reset="zero") == [1, 0, 1, 0]


def test_membranes_can_start_at_zero() -> None:
    assert spikes([7, 7, 7, 7], 10, initial_membrane=0) == [0, 1, 1, 0]


@given(
    drive=st.lists(st.integers(-3000, 3000), min_size=1, max_size=20),
    threshold=st.integers(1, 2000),
    timesteps=st.integers(1, 64),
    reset=st.sampled_from(RESETS),
    start=st.sampled_from(INITIAL_MEMBRANES),
)
def test_under_a_steady_drive_the_count_of_spikes_has_a_closed_form(
    drive: list[int], threshold: int, timesteps: int, reset: str, start: float
) -> None:
    dynamics = Dynamics(timesteps, reset, start)
    given_drive = torch.tensor(drive, dtype=torch.int64)
    fired = integrate_and_fire(given_drive.view(1, 1, -1, 1), torch.full((len(drive),), threshold), dynamics)
    counts = steady_spike_counts(given_drive.double() / threshold, dynamics)
    assert torch.equal(counts, fired.double().sum(0).flatten())


def test_half_an_odd_threshold_is_rounded_down() -> None:
    assert spikes([1], 3) == [0]  # 1 + 1 < 3
    assert spikes([2], 3) == [1]


def test_reaching_the_threshold_is_enough() -> None:
    assert spikes([5], 10) == [1]


def test_there_is_at_most_one_spike_a_step() -> None:
    assert spikes([100, 0, 0], 10) == [1, 1, 1]


def test_the_membrane_has_no_lower_bound() -> None:
    assert spikes([-1000, 500, 500, 10], 10) == [0, 0, 0, 1]


@given(drive=st.integers(-50, 50), threshold=st.integers(1, 40), steps=st.integers(1, 64))
def test_under_a_steady_drive_counts_are_the_rounded_clipped_quotient(drive: int, threshold: int, steps: int) -> None:
    count = sum(spikes([drive] * steps, threshold))
    expected = (steps * drive + threshold // 2) // threshold
    assert count == min(max(expected, 0), steps)


def test_a_drive_without_time_acts_at_every_step() -> None:
    drive = torch.full((1, 2, 1, 3), 4, dtype=torch.int32)
    dynamics = Dynamics(5)
    threshold = torch.tensor([9], dtype=torch.int32)
    steady = integrate_and_fire(drive, threshold, dynamics)
    repeated = integrate_and_fire(drive.expand(5, -1, -1, -1), threshold, dynamics)
    assert steady.shape == (5, 2, 1, 3)
    assert torch.equal(steady, repeated)


def test_the_recorder_sees_membranes_before_the_reset() -> None:
    seen: list[int] = []

    def record(membrane: Tensor) -> None:
        seen.append(int(membrane))

    drive = torch.full((1, 1, 1), 7, dtype=torch.int32)
    integrate_and_fire(drive, torch.tensor([10], dtype=torch.int32), Dynamics(3), record)
    assert seen == [12, 9, 16]


@pytest.mark.parametrize("timesteps", [1, 65536, np.int64(3)])
def test_timesteps_go_from_1_to_65536_and_are_kept_as_plain_integers(timesteps: Any) -> None:
    dynamics = Dynamics(timesteps, initial_membrane=0)
    assert dynamics.timesteps == timesteps
    assert (type(dynamics.timesteps), type(dynamics.initial_membrane)) == (int, float)


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, "8", None, True, 65537])
def test_timesteps_must_be_a_whole_positive_number(timesteps: object) -> None:
    with pytest.raises(OptionError, match=r"timesteps is .*; allowed are whole numbers from 1"):
        Dynamics(timesteps)  # type: ignore[arg-type]


def test_resets_and_starts_are_named() -> None:
    with pytest.raises(OptionError, match="reset is 'soft'; allowed are 'subtraction' and 'zero'"):
        Dynamics(4, reset="soft")
    with pytest.raises(OptionError, match=r"initial_membrane is 0\.3; allowed are 0 and 0.5"):
        Dynamics(4, initial_membrane=0.3)


POSITIVE = st.floats(1e-3, 1e2)


@given(
    step=st.lists(POSITIVE, min_size=1, max_size=4),
    threshold=POSITIVE,
    unit=POSITIVE,
    bias=st.floats(-1e2, 1e2),
    bits=st.sampled_from((1, 2, 3, 4)),
)
def test_the_gain_is_the_largest_at_which_all_registers_fit(
    step: list[float], threshold: float, unit: float, bias: float, bits: int
) -> None:
    steps = torch.tensor(step, dtype=torch.float64)

    def fits(gain: int) -> bool:
        theta = (threshold * gain / (steps * unit)).round().clamp_min(1)
        leak = (bias * gain / (steps * unit)).round()
        codes = Codebook.symmetric(bits).largest * gain <= 1023
        return codes and bool((theta <= 131071).all() and (leak >= -262144).all() and (leak <= 262143).all())

    arguments = {"step": steps, "bias": torch.full_like(steps, bias), "threshold": threshold, "unit": unit}
    if not fits(1):
        with pytest.raises(RegisterError):
            integer_neuron(**arguments, codebook=Codebook.symmetric(bits), registers=REGISTERS)  # type: ignore[arg-type]
        return
    neuron = integer_neuron(**arguments, codebook=Codebook.symmetric(bits), registers=REGISTERS)  # type: ignore[arg-type]
    assert neuron.gain >= 1
    assert fits(neuron.gain)
    assert not fits(neuron.gain + 1)
    assert torch.equal(neuron.threshold.double(), (threshold * neuron.gain / (steps * unit)).round().clamp_min(1))
    assert torch.equal(neuron.leak.double(), (bias * neuron.gain / (steps * unit)).round())
    torch.testing.assert_close(neuron.spike_value, neuron.threshold * steps * unit / neuron.gain)


def one(*bias: float, threshold: float = 1.0, bits: int = 2) -> IntegerNeuron:
    """Neurons of a layer, one for each bias, in units of their weighted sums."""
    return integer_neuron(
        step=torch.ones(len(bias), dtype=torch.float64),
        bias=torch.tensor(bias, dtype=torch.float64),
        threshold=threshold,
        unit=1.0,
        codebook=Codebook.symmetric(bits),
        registers=REGISTERS,
    )


@pytest.mark.parametrize(
    ("bias", "threshold", "bits", "gain"),
    [
        (0.0, 1.0, 4, 146),  # 7 * 146 = 1022: one more would take the codebook beyond 1023
        (0.0, 1.0, 2, 1023),
        (0.0, 256.0, 2, 511),  # 256 * 512 would be 131072
        (0.0, 131071 / 3, 2, 3),  # the top of the register, and no more
        (512.0005, 1.0, 2, 511),  # 512 times it rounds to 262144
        (262143 / 3, 1.0, 2, 3),
        (-512.0005, 1.0, 2, 512),  # 512 times it rounds to -262144, which the register holds
        (-262144.0, 1.0, 2, 1),
        (-262144.5, 1.0, 2, 1),  # rounded to the even one
    ],
)
def test_registers_are_used_up_to_both_of_their_ends(bias: float, threshold: float, bits: int, gain: int) -> None:
    neuron = one(bias, threshold=threshold, bits=bits)
    assert neuron.gain == gain
    assert neuron.threshold.tolist() == [round(threshold * gain)]
    assert neuron.leak.tolist() == [round(bias * gain)]


def test_a_threshold_beyond_its_register_is_an_error_with_value_and_range() -> None:
    with pytest.raises(RegisterError, match="its threshold is 200000; the register holds 1 to 131071"):
        one(0.0, threshold=200_000.0)


def test_a_leak_beyond_its_register_is_an_error_with_value_and_range() -> None:
    with pytest.raises(RegisterError, match=r"its leak \(bias\) is -300000; the register holds -262144 to 262143"):
        one(-300_000.0)


def test_of_several_leaks_one_that_does_not_fit_is_named() -> None:
    with pytest.raises(RegisterError, match=r"its leak \(bias\) is 262144; the register holds -262144 to 262143"):
        one(-262_144.0, 262_144.0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RegisterError, match="not finite"):
        one(float("nan"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reset", ["subtraction", "zero"])
@pytest.mark.parametrize("timesteps", [16, 128, 1000])
def test_in_half_precision_no_neuron_spikes_more_than_once_a_step(
    dtype: torch.dtype, reset: str, timesteps: int
) -> None:
    drive = torch.linspace(-0.5, 1.5, 999).to(dtype)
    counts = steady_spike_counts(drive, Dynamics(timesteps, reset))
    assert counts.dtype == dtype
    assert counts.max() == timesteps
    assert torch.equal(counts, steady_spike_counts(drive.float(), Dynamics(timesteps, reset)).to(dtype))
