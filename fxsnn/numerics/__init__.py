"""The arithmetic of the contract, docs/NUMERICS.md: neurons in integers and floating point, weights in few bits.

Open `neuron.py` first. It imports chip (the widths of registers) and the ground.
"""

from fxsnn.numerics.codebook import Codebook
from fxsnn.numerics.codebook_families import SYMMETRIC, fitted_codebook, kind_of
from fxsnn.numerics.finite import all_finite
from fxsnn.numerics.joint import Branch, JointNeuron, joint_neuron
from fxsnn.numerics.neuron import (
    LARGEST_TIMESTEPS,
    Dynamics,
    IntegerNeuron,
    RegisterError,
    fire_once,
    integer_neuron,
    integrate_and_fire,
    start_of,
    steady_spike_counts,
)
from fxsnn.numerics.reconstruction import InputMoments, reconstructed

__all__ = [
    "LARGEST_TIMESTEPS",
    "SYMMETRIC",
    "Branch",
    "Codebook",
    "Dynamics",
    "InputMoments",
    "IntegerNeuron",
    "JointNeuron",
    "RegisterError",
    "all_finite",
    "fire_once",
    "fitted_codebook",
    "integer_neuron",
    "integrate_and_fire",
    "joint_neuron",
    "kind_of",
    "reconstructed",
    "start_of",
    "steady_spike_counts",
]
