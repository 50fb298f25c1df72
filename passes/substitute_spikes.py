"""SubstituteSpikes: the body becomes integer spiking layers; the tail is left untouched."""

from __future__ import annotations

from fxsnn.chip import HardwareTarget, require_target
from fxsnn.graph import Graph
from fxsnn.numerics import Dynamics
from fxsnn.rewriting import Pass, facts, substitute


class SubstituteSpikes(Pass):
    """conv + ReLU → SpikeConv2d, fully connected + ReLU → SpikeLinear, AvgPool2d → SpikeAvgPool2d, and so on.

    The images are encoded once at the input, spike counts are decoded once in front of the tail. Thresholds and leaks
    become integers with the largest codebook gain at which all registers of the target still fit.

    Args:
        target: gives the widths of the registers.
        timesteps: T.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold: 0.5 or 0.
    """

    target: HardwareTarget
    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5

    needs = facts("convertible", "thresholds", "low-bit-weights")
    gives = facts("spikes")

    def __post_init__(self) -> None:
        require_target(self.target)
        self.dynamics()

    def dynamics(self) -> Dynamics:
        """Timesteps, reset and start of the membranes, checked."""
        return Dynamics(self.timesteps, self.reset, self.initial_membrane)

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        substitute(graph, self.target, self.dynamics())
