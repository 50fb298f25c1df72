"""The arithmetic of the contract, docs/NUMERICS.md: neurons in integers and floating point, weights in few bits.

Open `neuron.py` first. It imports chip (the widths of registers) and the ground.
"""

from fxsnn.numerics.finite import all_finite
from fxsnn.numerics.joint import Branch, JointNeuron, joint_neuron
from fxsnn.numerics.lowbit import largest_code
from fxsnn.numerics.neuron import (
    Dynamics,
    IntegerNeuron,
    RegisterError,
    integer_neuron,
    integrate_and_fire,
    steady_spike_counts,
)

__all__ = [
    "Branch",
    "Dynamics",
    "IntegerNeuron",
    "JointNeuron",
    "RegisterError",
    "all_finite",
    "integer_neuron",
    "integrate_and_fire",
    "joint_neuron",
    "largest_code",
    "steady_spike_counts",
]
