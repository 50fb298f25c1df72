"""The integrate-and-fire neuron: its dynamics as a pure function, and its integer parameters.

`integrate_and_fire` is the one place where spikes are made; every engine has to give the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxsnn.chip import Registers, whole_number
from fxsnn.errors import FxsnnError, OptionError
from fxsnn.numerics.codebook import Codebook
from fxsnn.options import is_one_of, real_number, shown

RESETS = ("subtraction", "zero")
INITIAL_MEMBRANES = (0.0, 0.5)
LARGEST_TIMESTEPS = 1 << 16


class RegisterError(FxsnnError):
    """A value of a layer does not fit its register.

    Attributes:
        problem: value and range, without the layer.
        remedy: what to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}.")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class Dynamics:
    """How neurons run.

    Attributes:
        timesteps: number of steps T, at least 1.
        reset: "subtraction" takes the threshold off the membrane at a spike, "zero" sets it to 0.
        initial_membrane: where membranes start, as a share of the threshold: 0.5 (rounded down) or 0.

    Raises:
        OptionError: a value is not allowed.
    """

    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5

    def __post_init__(self) -> None:
        timesteps = whole_number(self.timesteps)
        if timesteps is None or not 1 <= timesteps <= LARGEST_TIMESTEPS:
            raise OptionError(
                f"timesteps is {shown(self.timesteps)}; allowed are whole numbers from 1 to {LARGEST_TIMESTEPS}"
            )
        object.__setattr__(self, "timesteps", timesteps)
        if not is_one_of(self.reset, RESETS):
            raise OptionError(f"reset is {shown(self.reset)}; allowed are {' and '.join(map(repr, RESETS))}")
        share = real_number(self.initial_membrane)
        if share not in INITIAL_MEMBRANES:
            raise OptionError(f"initial_membrane is {shown(self.initial_membrane)}; allowed are 0 and 0.5")
        object.__setattr__(self, "initial_membrane", share)


def integrate_and_fire(
    drive: Tensor, threshold: Tensor, dynamics: Dynamics, record: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Spikes of neurons under a drive.

    For t = 1..T, from `V = floor(initial_membrane * threshold)`:

        V += drive[t];  spike where V >= threshold;  reset by subtraction: V -= threshold, to zero: V = 0

    Args:
        drive: what each step adds to the membranes, gain and leak included: [T, N, C, ...], or [1, N, C, ...] where it
            is the same at every step. Integer types are exact; floating ones serve the analog input.
        threshold: [C], integer.
        dynamics: T, reset and start.
        record: called at each step with the membranes [N, C, ...] before the reset; it must not write into them.

    Returns:
        Spikes 0 and 1 as float32, [T, N, C, ...].
    """
    theta = threshold.view(1, -1, *[1] * (drive.dim() - 3)).to(drive.dtype)
    # No shape is looked at: a program that PyTorch makes of this would hold it, and take no other number of images.
    drive_of_each_step = drive.expand(dynamics.timesteps, *[-1] * (drive.dim() - 1))
    membrane = start_of(theta, dynamics)
    spikes = []
    for step in range(dynamics.timesteps):
        membrane = membrane + drive_of_each_step[step]
        if record is not None:
            record(membrane)
        fired, membrane = fire_once(membrane, theta, dynamics)
        spikes.append(fired)
    return torch.stack(spikes).float()


def start_of(threshold: Tensor, dynamics: Dynamics) -> Tensor:
    """Where membranes start under a threshold."""
    return threshold.div(2, rounding_mode="floor") if dynamics.initial_membrane else torch.zeros_like(threshold)


def fire_once(membrane: Tensor, threshold: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Which membranes spike, as bool, and what is left of them."""
    fired = membrane >= threshold
    return fired, membrane - threshold * fired if dynamics.reset == "subtraction" else membrane * ~fired


def steady_spike_counts(drive: Tensor, dynamics: Dynamics) -> Tensor:
    """How many spikes `integrate_and_fire` makes where the drive is the same at every step, in closed form.

    By subtraction it is `floor(T * drive + initial_membrane)`, clipped to 0..T. With reset to zero the first spike
    comes after `ceil((1 - initial_membrane) / drive)` steps and the next ones every `ceil(1 / drive)`.

    Args:
        drive: in thresholds a step, any shape.
        dynamics: T, reset and start.

    >>> steady_spike_counts(torch.tensor([-1.0, 0.4, 2.0]), Dynamics(4))
    tensor([0., 2., 4.])
    >>> steady_spike_counts(torch.tensor([-1.0, 0.4, 2.0]), Dynamics(4, reset="zero"))
    tensor([0., 1., 4.])
    """
    steps, start = dynamics.timesteps, dynamics.initial_membrane
    if drive.dtype in (torch.bfloat16, torch.float16):  # too coarse for the tolerance below
        return steady_spike_counts(drive.float(), dynamics).to(drive.dtype)
    raised = (
        1 + 4 * torch.finfo(drive.dtype).eps
    )  # who reaches the threshold exactly spikes: not to miss it by rounding
    if dynamics.reset == "subtraction":
        return drive.clamp(0, 1).mul_(steps * raised).add_(start).floor_()
    period = (drive * raised).clamp_min_(1e-30).reciprocal_()
    first, every = (period * (1 - start)).ceil_(), period.ceil().clamp_min_(1)
    return (steps - first).div_(every).floor_().add_(1).clamp_(0, steps)


@dataclass(frozen=True)
class IntegerNeuron:
    """The integers of one layer's neurons.

    Attributes:
        gain: codebook gain m, positive.
        threshold: int32 [C], at least 1.
        leak: int32 [C].
        spike_value: float64 [C], what one spike is worth in activation units: the threshold after rounding.
    """

    gain: int
    threshold: Tensor
    leak: Tensor
    spike_value: Tensor


def integer_neuron(
    *, step: Tensor, bias: Tensor, threshold: float, unit: float, codebook: Codebook, registers: Registers
) -> IntegerNeuron:
    """Round a layer's threshold and bias to integers, with the largest codebook gain at which all registers fit.

    With `m` the gain: threshold `round(threshold * m / (step * unit))`, at least 1; leak
    `round(bias * m / (step * unit))`; codebook entries `level * m`.

    Args:
        step: weight step of each output channel, [C].
        bias: bias of each output channel in activation units, [C].
        threshold: upper end of the layer's ReLU output in activation units.
        unit: what one unit of the layer's input is worth in activation units.
        codebook: of the weights.
        registers: widths of the chip's registers.

    Raises:
        RegisterError: even with a gain of 1 a value does not fit; nothing is ever clamped.
    """
    grain = step.double() * unit  # what one unit of the weighted sum is worth in activation units
    real_threshold, real_leak = threshold / grain, bias.double() / grain
    codebook_top = registers.range_of(registers.codebook)[1]
    threshold_top = registers.range_of(registers.threshold)[1]
    leak_bottom, leak_top = registers.range_of(registers.leak)

    def rounded(gain: int) -> tuple[Tensor, Tensor]:
        return (threshold * gain / grain).round().clamp_min(1), (bias.double() * gain / grain).round()

    def fits(gain: int) -> bool:
        theta, beta = rounded(gain)
        return bool((theta <= threshold_top).all() and (beta >= leak_bottom).all() and (beta <= leak_top).all())

    if not bool(torch.isfinite(real_threshold).all() and torch.isfinite(real_leak).all()):
        raise RegisterError(
            "its threshold or bias is not finite in units of its weight step", "Load weights that are finite"
        )
    if not fits(1):
        theta, beta = rounded(1)
        coarser = "or use fewer bits or per_channel=False, which make the weight step larger"
        if bool((theta > threshold_top).any()):
            raise RegisterError(
                f"its threshold is {int(theta.max())}; the register holds 1 to {threshold_top}",
                f"Calibrate it with a lower percentile, {coarser}",
            )
        worst = int(beta.min() if bool((beta < leak_bottom).any()) else beta.max())
        raise RegisterError(
            f"its leak (bias) is {worst}; the register holds {leak_bottom} to {leak_top}",
            f"Train it with a smaller bias, {coarser}",
        )

    most = codebook_top // codebook.largest
    bounds = [most, (threshold_top + 1) / float(real_threshold.max())]
    if float(real_leak.abs().max()) > 0:
        bounds.append((leak_top + 1) / float(real_leak.abs().max()))
    gain = max(1, math.floor(min(bounds)))
    while not fits(gain):  # rounding can push the first guess over by one
        gain -= 1
    while gain < most and fits(gain + 1):
        gain += 1
    theta, beta = rounded(gain)
    return IntegerNeuron(gain, theta.to(torch.int32), beta.to(torch.int32), theta * grain / gain)
