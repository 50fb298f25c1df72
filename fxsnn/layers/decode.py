"""The way back from spikes to activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxsnn.numerics import Dynamics


class Decode(nn.Module):
    """Spike counts to activations, once: `count / T * spike_value`.

    Args:
        spike_value: what a spike is worth, [C].
        dtype: type of the result, that of the tail.
        dynamics: gives T.
    """

    spike_value: Tensor

    def __init__(self, spike_value: Tensor, dtype: torch.dtype, dynamics: Dynamics) -> None:
        super().__init__()
        self.register_buffer("spike_value", spike_value.to(dtype))
        self.dynamics = dynamics

    def forward(self, spikes: Tensor) -> Tensor:
        """Activations [N, C, ...] for spikes [T * N, C, ...]."""
        return self.value(self._unfolded(spikes).sum(0))

    def after_each_step(self, spikes: Tensor) -> Tensor:
        """Activations [T * N, C, ...]: row t is what a run of t + 1 steps would give."""
        return self.values_after_each_step(self._unfolded(spikes).cumsum(0, dtype=torch.int32))

    def value(self, counts: Tensor) -> Tensor:
        """Activations [N, C, ...] for the spike counts of a whole run."""
        scale = self.spike_value.view(-1, *[1] * (counts.dim() - 2))
        return (counts.double() / self.dynamics.timesteps * scale.double()).to(scale.dtype)

    def values_after_each_step(self, counts: Tensor) -> Tensor:
        """Activations [T * N, C, ...] for the spike counts after each step, [T, N, C, ...]."""
        steps = torch.arange(1, len(counts) + 1, device=counts.device).view(-1, *[1] * (counts.dim() - 1))
        scale = self.spike_value.view(-1, *[1] * (counts.dim() - 3))
        return (counts.double() / steps * scale.double()).to(scale.dtype).flatten(0, 1)

    def run_with(self, dynamics: Dynamics) -> None:
        """Use other dynamics from now on."""
        self.dynamics = dynamics

    def _unfolded(self, spikes: Tensor) -> Tensor:
        return spikes.unflatten(0, (self.dynamics.timesteps, -1))
