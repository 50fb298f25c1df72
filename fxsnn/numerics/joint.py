"""Integers of neurons that add up several inputs, in one grain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxsnn.chip import Registers
from fxsnn.numerics.neuron import RegisterError

_CANDIDATES = 64
"""Grains that are tried for each channel, up to twice the smallest one."""


@dataclass(frozen=True)
class Branch:
    """One of several inputs.

    Attributes:
        weight: what a code of 1, or a spike that is added as it is, adds in activation units, float64 [C].
        largest_code: the largest magnitude of its codes, 1 where it is added as it is.
    """

    weight: Tensor
    largest_code: int = 1


@dataclass(frozen=True)
class JointNeuron:
    """The integers of neurons that add up several inputs.

    Attributes:
        gains: int32 [inputs, C], what a code of 1, or a spike that is added as it is, adds to the membrane.
        threshold: int32 [C], at least 1.
        leak: int32 [C].
        spike_value: float64 [C], what a spike is worth in activation units.
        grain: float64 [C], what one unit of the membrane is worth in activation units.
    """

    gains: Tensor
    threshold: Tensor
    leak: Tensor
    spike_value: Tensor
    grain: Tensor


def joint_neuron(*, branches: Sequence[Branch], bias: Tensor, threshold: float, registers: Registers) -> JointNeuron:
    """Round what several inputs add, a threshold and a bias to integers in one grain, channel by channel.

    With the grain `γ`: gains `round(weight / γ)`, threshold `round(threshold / γ)`, leak `round(bias / γ)`. The
    smallest grain at which all registers fit is taken, or one up to twice as large at which the gains' relative errors
    of rounding have the least sum of squares.

    Args:
        branches: the inputs.
        bias: of all of them together, in activation units, [C].
        threshold: upper end of the activation, in activation units.
        registers: widths of the chip's registers; gains times codes must fit the codebook's.

    Raises:
        RegisterError: the threshold is too small beside weights or bias for any grain.
    """
    weights = torch.stack([branch.weight for branch in branches]).double()
    bias = bias.double()
    if not bool(torch.isfinite(weights).all() and torch.isfinite(bias).all()):
        raise RegisterError("its weights or bias are not finite", "Load weights that are finite")
    codebook_top, threshold_top, leak_top = (
        registers.range_of(width)[1] for width in (registers.codebook, registers.threshold, registers.leak)
    )
    most = torch.tensor([codebook_top // branch.largest_code for branch in branches], dtype=torch.float64)
    bounds = [weights.abs() / most.to(weights.device)[:, None], bias.abs()[None] / leak_top]
    smallest = torch.cat([*bounds, torch.full_like(bias, threshold / threshold_top)[None]]).amax(0)
    grain = _least_error(weights, smallest)
    theta = (threshold / grain).round()
    if bool((theta < 1).any()):
        raise RegisterError(
            f"its threshold is less than half of what the smallest unit of its membrane is worth, beside "
            f"inputs of up to {float(weights.abs().max()):.4g} and a bias of up to {float(bias.abs().max()):.4g} and "
            f"a threshold of {threshold:.4g}",
            "Calibrate it with a higher percentile, or train it with a smaller bias",
        )
    gains, leak = (weights / grain).round(), (bias / grain).round()
    whole = torch.int32
    return JointNeuron(gains.to(whole), theta.to(whole), leak.to(whole), theta * grain, grain)


def _least_error(weights: Tensor, smallest: Tensor) -> Tensor:
    """For each channel the grain, of those from the smallest on, that gains fit best."""
    steps = torch.arange(_CANDIDATES, dtype=torch.float64, device=weights.device)
    grains = smallest * (1 + steps / _CANDIDATES)[:, None]  # [candidates, C]
    ratios = weights[:, None] / grains  # [inputs, candidates, C]
    errors = torch.where(ratios == 0, 0.0, (ratios.round() - ratios) / ratios).square().sum(0)
    best: Tensor = grains.gather(0, errors.argmin(0, keepdim=True)).squeeze(0)
    return best
