"""ReLUs with an upper end, which neurons will take the place of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.chip import whole_number
from fxsnn.errors import OptionError
from fxsnn.numerics import Dynamics, steady_spike_counts


@dataclass(frozen=True)
class ActivationSummary:
    """What calibration saw behind a ReLU.

    Attributes:
        largest: the largest activation.
        saturated_share: share of the activations at or above the threshold that was chosen.
    """

    largest: float
    saturated_share: float


@dataclass(frozen=True)
class Bound:
    """Where an activation of the user's network ends, and how many levels above zero it has.

    Attributes:
        value: upper end, in activation units, positive.
        levels: 1 or more; `None`: it takes every value in between.

    Raises:
        OptionError: a value is not allowed.
    """

    value: float
    levels: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise OptionError(f"bound is {self.value!r}; allowed are positive numbers")
        if self.levels is not None and (whole_number(self.levels) or 0) < 1:
            raise OptionError(f"levels is {self.levels!r}; allowed are whole numbers from 1, or None")


class BoundedReLU(nn.Module):
    """An activation whose upper end is the network's own, such as ReLU6: `clamp(x, 0, bound)`.

    With levels it is the activation of networks that were trained to be converted (QCFS, Bu et al. 2022, eq. 13):
    `floor(clamp(x / bound, 0, 1) * levels + 0.5) / levels * bound`, computed in this order. The steps have no gradient.

    Args:
        bound: where it ends.
    """

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        top, levels = self.bound.value, self.bound.levels
        if levels is None:
            return x.clamp(0.0, top)
        return ((x / top).clamp(0.0, 1.0) * levels + 0.5).floor() / levels * top

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"bound={self.bound.value:.6g}" + (f", levels={self.bound.levels}" if self.bound.levels else "")


class ClippedReLU(nn.Module):
    """`clamp(x, 0, threshold)`, optionally rounded to what T steps of spikes express.

    Args:
        threshold: upper end, in activation units, positive.
        dynamics: the output is the rate of spikes that neurons give under a steady drive (`steady_spike_counts`), times
            the threshold, with a straight-through gradient; by subtraction from half a threshold that is
            `floor(x * T / threshold + 0.5) * threshold / T` (Bu et al. 2022, eq. 13). `None`: no rounding.
        summary: what calibration saw, `None` without data.
        bound: of the activation whose place it takes; `None`: that had none.
    """

    def __init__(
        self,
        threshold: float,
        dynamics: Dynamics | None = None,
        summary: ActivationSummary | None = None,
        bound: Bound | None = None,
    ) -> None:
        super().__init__()
        if not threshold > 0:
            raise OptionError(f"threshold is {threshold!r}; allowed are positive numbers")
        self.threshold = threshold
        self.dynamics = dynamics
        self.summary = summary
        self.bound = bound

    @property
    def levels(self) -> int | None:
        """T, or `None` where nothing is rounded."""
        return None if self.dynamics is None else self.dynamics.timesteps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        clipped = x.clamp(0.0, self.threshold)
        if self.dynamics is None:
            return clipped
        counts = steady_spike_counts(x.detach() / self.threshold, self.dynamics)
        return clipped + (counts * (self.threshold / self.dynamics.timesteps) - clipped).detach()

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"threshold={self.threshold:.6g}" + (f", levels={self.levels}" if self.levels else "")


class RateReLU(nn.Module):
    """`ClippedReLU` in training: what integer neurons give, as a rate of spikes in T steps.

    Under a steady drive of `x / s` thresholds a step, with `s` the threshold of the channel after rounding, the rate is
    that of `fxsnn.numerics.steady_spike_counts`; `rate * unit` is what the next layer reads. The gradient passes
    straight through the rounding, and to the threshold as in Esser et al. 2020: eq. 3, with the scale of their section
    2.2, both for the step between two levels, which is a T-th of the threshold.

    Args:
        upper: upper end, in activation units; learned if it is a parameter.
        dynamics: T, reset and start of the neurons.
        bound: as of `ClippedReLU`.

    Attributes:
        spike_value: [C], the rounded threshold of each channel.
        unit: what a rate of 1 is worth to who reads it, [1] or [C].
        rates: rates that take the place of the rounded ones, of the shape of the input: those of a simulation.
    """

    upper: Tensor
    spike_value: Tensor
    unit: Tensor

    def __init__(self, upper: Tensor, dynamics: Dynamics, bound: Bound | None = None) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.bound = bound
        if isinstance(upper, nn.Parameter):
            self.upper = upper
        else:
            self.register_buffer("upper", upper)
        self.register_buffer("spike_value", upper.detach().view(1))
        self.register_buffer("unit", upper.detach().view(1))
        self.rates: Tensor | None = None

    @property
    def threshold(self) -> float:
        """Upper end, in activation units."""
        return float(self.upper.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`, [N, C, ...], in the type of the thresholds: bfloat16 would round rates once more."""
        value, unit = (one.view(-1, *[1] * (x.dim() - 2)) for one in (self.spike_value, self.unit))
        out: Tensor = _Rate.apply(x, self.upper, value, unit, self.dynamics, self.rates)
        return out


class _Rate(torch.autograd.Function):
    """Arithmetic of `RateReLU`; as one function because it goes over memory far less often than its parts would."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, upper: Tensor, value: Tensor, unit: Tensor, dynamics: Dynamics, rates: Tensor | None
    ) -> Tensor:
        ratio = x / value  # in the type of the thresholds: bfloat16 would round at other ones
        if rates is None:
            rates = steady_spike_counts(ratio, dynamics).div_(dynamics.timesteps)
        else:  # in the order in memory of all the rest, which would be slow with two orders
            rates = torch.empty_like(ratio).copy_(rates)
        ctx.save_for_backward(ratio, rates, value, unit)
        # Esser's scale 1 / sqrt(neurons * T) is for the step: the threshold moves T times as far, and its gradient is
        # a T-th of the step's.
        neurons = max(1, x.numel() // max(1, len(x)))
        ctx.scale = dynamics.timesteps**2 * (neurons * dynamics.timesteps) ** -0.5
        ctx.type = x.dtype
        return rates * unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ratio, rates, value, unit = ctx.saved_tensors
        to_x = torch.ops.aten.hardtanh_backward(gradient, ratio, 0, 1).mul_(unit / value)
        to_upper = None
        if ctx.needs_input_grad[1]:  # both the value and the unit move with the threshold
            to_upper = ctx.scale * (gradient * rates).addcmul_(to_x, ratio, value=-1).sum()
        return to_x.to(ctx.type), to_upper, None, None, None, None
