"""Several inputs in one grain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsnn.chip import Registers
from fxsnn.numerics import Branch, RegisterError, joint_neuron

REGISTERS = Registers(codebook=11, threshold=18, leak=19)
WEIGHTS = st.floats(1e-3, 10)


@settings(deadline=None)
@given(
    st.lists(st.tuples(WEIGHTS, st.sampled_from([1, 3, 7]), st.booleans()), min_size=1, max_size=4),
    st.floats(-5, 5),
    st.floats(0.1, 20),
)
def test_all_values_fit_their_registers_and_stand_for_what_they_were(
    inputs: list[tuple[float, int, bool]], bias: float, threshold: float
) -> None:
    weights = [-weight if negative else weight for weight, _, negative in inputs]
    branches = [
        Branch(torch.tensor([weight], dtype=torch.float64), code)
        for weight, (_, code, _) in zip(weights, inputs, strict=True)
    ]
    neuron = joint_neuron(branches=branches, bias=torch.tensor([bias]), threshold=threshold, registers=REGISTERS)
    grain = float(neuron.grain)
    for gain, branch in zip(neuron.gains, branches, strict=True):
        assert abs(int(gain)) * branch.largest_code <= 1023
        assert abs(float(gain) * grain - float(branch.weight)) <= grain / 2 * (1 + 1e-9)
    assert 1 <= int(neuron.threshold) <= (1 << 17) - 1
    assert abs(int(neuron.leak)) <= (1 << 18) - 1
    assert abs(int(neuron.leak) * grain - bias) <= grain / 2 * (1 + 1e-9) + 1e-6
    assert float(neuron.spike_value) == int(neuron.threshold) * grain


def test_inputs_of_one_weight_have_no_error() -> None:
    one = torch.tensor([0.37, 1.0, 5.5], dtype=torch.float64)
    neuron = joint_neuron(
        branches=[Branch(one), Branch(-one), Branch(one)], bias=torch.zeros(3), threshold=0.7, registers=REGISTERS
    )
    assert torch.equal(neuron.gains[0], -neuron.gains[1])
    assert torch.allclose(neuron.gains[0] * neuron.grain, one, rtol=1e-12)


def test_a_threshold_that_is_nothing_beside_the_bias_is_refused() -> None:
    with pytest.raises(RegisterError, match="its threshold is less than half of what the smallest unit"):
        joint_neuron(branches=[Branch(torch.ones(1))], bias=torch.tensor([1e9]), threshold=0.1, registers=REGISTERS)
    with pytest.raises(RegisterError, match="not finite"):
        joint_neuron(
            branches=[Branch(torch.tensor([float("nan")]))], bias=torch.zeros(1), threshold=1.0, registers=REGISTERS
        )
