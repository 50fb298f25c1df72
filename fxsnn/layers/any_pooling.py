"""Max pooling by one neuron a window, which spikes where any neuron of the window does."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.layers.spiking import SpikePool2d
from fxsnn.layers.wiring import Taps
from fxsnn.numerics import Dynamics

_NEARLY_ONE = 1 - 1e-6
"""A rate of 1 leaves nothing to take the logarithm of."""


class AnyPool2d(nn.Module):
    """Max pooling of what is nowhere negative, in whose place neurons will stand that spike with any of their window.

    Their rate lies between the maximum of the rates and the sum. Spikes of different neurons that know nothing of each
    other give `1 - Π (1 - rate)`, which is what it computes where units are known: corrections and training put them
    there. Before that, it computes the maximum.

    Args:
        rows: windows down.
        columns: windows across.
        unit: what a rate of 1 is worth, [C] or [1]; `None`: there are no rates yet.
    """

    unit: Tensor | None

    def __init__(self, rows: Taps, columns: Taps, unit: Tensor | None = None) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.register_buffer("unit", unit)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        down, across = self.rows, self.columns
        if self.unit is not None:
            unit = self.unit.to(x.dtype).view(-1, 1, 1)
            silent = (x / unit * -_NEARLY_ONE).log1p()
            return -sums_over_windows(silent, down, across).expm1() * unit
        return F.max_pool2d(
            x,
            (down.kernel, across.kernel),
            (down.stride, across.stride),
            (down.padding, across.padding),
            (down.dilation, across.dilation),
            down.ceil,
        )

    def extra_repr(self) -> str:
        """Shown in dumps."""
        down, across = self.rows, self.columns
        told = [f"{down.kernel}x{across.kernel}", f"stride={(down.stride, across.stride)}"]
        told += [f"padding={(down.padding, across.padding)}"] if down.padding or across.padding else []
        told += [f"dilation={(down.dilation, across.dilation)}"] if (down.dilation, across.dilation) != (1, 1) else []
        told += ["ceil"] if down.ceil else []
        return ", ".join([*told, *(["of rates"] if self.unit is not None else [])])


class SpikeAnyPool2d(SpikePool2d, AnyPool2d):
    """A neuron for each window, which spikes in each step in which any neuron of the window does.

    Weights are 1 and so is the threshold; the reset is to zero whatever the network's is, and membranes start at 0.
    """

    @classmethod
    def compiled(cls, pool: AnyPool2d, spike_value: Tensor, dynamics: Dynamics) -> SpikeAnyPool2d:
        """The spiking form of a pooling whose input spikes are worth `spike_value`, float64 [C]."""
        layer = cls(pool.rows, pool.columns)
        layer.become_pooling(1, spike_value, dynamics)
        return layer.train(pool.training)

    def windows(self) -> tuple[Taps, Taps]:
        """Down and across."""
        return self.rows, self.columns

    def run_with(self, dynamics: Dynamics) -> None:
        """Use other dynamics from now on, all but their reset."""
        super().run_with(replace(dynamics, reset="zero"))

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over each window."""
        return sums_over_windows(x, self.rows, self.columns)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes."""
        return self.fire(x)


def sums_over_windows(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """[N, C, H, W] to [N, C, windows down, windows across]; padding counts as 0."""
    for axis, taps in ((2, rows), (3, columns)):
        reach, size = taps.dilation * (taps.kernel - 1) + 1, x.shape[axis]
        # The last window may end in front of the end of the padding, or behind it.
        behind = (taps.windows(size) - 1) * taps.stride + reach - size - taps.padding
        x = F.pad(x, (taps.padding, behind) if axis == 3 else (0, 0, taps.padding, behind))
        x = x.unfold(axis, reach, taps.stride)[..., :: taps.dilation].sum(-1)
    return x
