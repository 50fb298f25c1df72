"""The arithmetic of the contract, docs/NUMERICS.md: neurons in integers and floating point, weights in few bits.

Open `neuron.py` first. It imports chip (the widths of registers) and the ground.
"""

from fxsnn.numerics.codebook import Codebook
from fxsnn.numerics.codebook_families import SYMMETRIC, fitted_codebook, kind_of
from fxsnn.numerics.finite import all_finite
from fxsnn.numerics.joint import Branch, JointNeuron, joint_neuron
from fxsnn.numerics.neuron import (
    Dynamics,
    IntegerNeuron,
    RegisterError,
    integer_neuron,
    integrate_and_fire,
    steady_spike_counts,
)
from fxsnn.numerics.reconstruction import InputMoments, reconstructed

__all__ = [
    "SYMMETRIC",
    "Branch",
    "Codebook",
    "Dynamics",
    "InputMoments",
    "IntegerNeuron",
    "JointNeuron",
    "RegisterError",
    "all_finite",
    "fitted_codebook",
    "integer_neuron",
    "integrate_and_fire",
    "joint_neuron",
    "kind_of",
    "reconstructed",
    "steady_spike_counts",
]
