"""The modules that stand in graphs between the user's network and the spiking one.

    stage                   modules
    batch norm folded       FoldedConv2d, FoldedLinear
    thresholds calibrated   QuantizedInput, ClippedReLU
    weights quantised       LowBitConv2d, LowBitLinear
    in training             RateReLU
    spiking                 Encode, SpikeConv2d, SpikeLinear, SpikeAvgPool2d, Decode

`SpikeConv2d`, `SpikeLinear`, `SpikeAvgPool2d` and `SpikeReLU` can also be written by hand: until they are converted
they are the PyTorch layers of the same names, and train as such.

Between spiking layers, time is folded into the batch: [T * N, ...], time first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn import lowbit
from fxsnn.errors import DataError, OptionError
from fxsnn.neuron import Dynamics, IntegerNeuron, integrate_and_fire, steady_spike_counts

_EXACT_IN_BFLOAT16 = 1 << 8

_Conv = TypeVar("_Conv", bound=nn.Conv2d)
_Linear = TypeVar("_Linear", bound=nn.Linear)


def conv_like(kind: type[_Conv], conv: nn.Conv2d) -> _Conv:
    """A layer of class `kind` with the geometry of `conv` and its very parameters; draws no random number."""
    new = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # torch types the attribute as a longer tuple than it is
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        device="meta",
    )
    new.weight, new.bias = conv.weight, conv.bias
    return new.train(conv.training)


def linear_like(kind: type[_Linear], linear: nn.Linear) -> _Linear:
    """A layer of class `kind` with the shape of `linear` and its very parameters; draws no random number."""
    new = kind(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    new.weight, new.bias = linear.weight, linear.bias
    return new.train(linear.training)


class _Folded(nn.Module):
    """Remembers the batch norm that was folded in: each output channel is about N(mean, deviation^2).

    Attributes:
        channel_mean: [C], the shift of the batch norm.
        channel_deviation: [C], the magnitude of its scale.
    """

    channel_mean: Tensor
    channel_deviation: Tensor

    def remember(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        """Take over the affine part of `norm`."""
        running_mean = norm.running_mean
        assert running_mean is not None
        mean = torch.zeros_like(running_mean) if norm.bias is None else norm.bias.detach()
        deviation = torch.ones_like(running_mean) if norm.weight is None else norm.weight.detach().abs()
        self.register_buffer("channel_mean", mean)
        self.register_buffer("channel_deviation", deviation)


class FoldedConv2d(_Folded, nn.Conv2d):
    """A convolution with a batch norm folded in."""


class FoldedLinear(_Folded, nn.Linear):
    """A fully connected layer with a batch norm folded in."""


@dataclass(frozen=True)
class ActivationSummary:
    """What calibration saw behind a ReLU.

    Attributes:
        largest: the largest activation.
        active_share: share of the activations above zero.
        saturated_share: share of the activations at or above the threshold that was chosen.
    """

    largest: float
    active_share: float
    saturated_share: float


class ClippedReLU(nn.Module):
    """`clamp(x, 0, threshold)`, optionally rounded to what T steps of spikes express.

    Args:
        threshold: upper end, in activation units, positive.
        dynamics: the output is the rate of spikes that neurons give under a steady drive (`steady_spike_counts`), times
            the threshold, with a straight-through gradient; by subtraction from half a threshold that is
            `floor(x * T / threshold + 0.5) * threshold / T` (Bu et al. 2022, eq. 13). `None`: no rounding.
        summary: what calibration saw, `None` without data.
    """

    def __init__(
        self, threshold: float, dynamics: Dynamics | None = None, summary: ActivationSummary | None = None
    ) -> None:
        super().__init__()
        if not threshold > 0:
            raise OptionError(f"threshold is {threshold!r}; allowed are positive numbers")
        self.threshold = threshold
        self.dynamics = dynamics
        self.summary = summary

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
    that of `fxsnn.neuron.steady_spike_counts`; `rate * unit` is what the next layer reads. The gradient passes straight
    through the rounding, and to the threshold as in Esser et al. 2020: eq. 3, with the scale of their section 2.2, both
    for the step between two levels, which is a T-th of the threshold.

    Args:
        upper: upper end, in activation units; learned if it is a parameter.
        dynamics: T, reset and start of the neurons.

    Attributes:
        spike_value: [C], the rounded threshold of each channel.
        unit: what a rate of 1 is worth to who reads it, [1] or [C].
        rates: rates that take the place of the rounded ones, of the shape of the input: those of a simulation.
    """

    upper: Tensor
    spike_value: Tensor
    unit: Tensor

    def __init__(self, upper: Tensor, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics
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


def quantize_input(images: Tensor, unit: float, bits: int) -> Tensor:
    """`round(images / unit)` clipped to signed `bits`, computed in double precision, as float64."""
    top = 1 << (bits - 1)
    return (images.double() / unit).round().clamp(-top, top - 1)


class QuantizedInput(nn.Module):
    """Images rounded to the chip's input grid; still in activation units.

    Args:
        unit: the input step.
        bits: width of the signed input.
    """

    def __init__(self, unit: float, bits: int) -> None:
        super().__init__()
        self.unit = unit
        self.bits = bits

    def forward(self, images: Tensor) -> Tensor:
        """Same shape and type as `images`."""
        return (quantize_input(images, self.unit, self.bits) * self.unit).to(images.dtype)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"unit={self.unit:.6g}, bits={self.bits}"


class LowBit(nn.Module):
    """A layer with n-bit weights in float arithmetic: `weight` is the trainable shadow, `step * code` is what is used.

    Attributes:
        bits: 1 to 4.
        step: weight step, [C] per output channel or [1] per layer.
        float_weight: the weight before it was quantised; training leaves it as it is.
        float_bias: the same of the bias, `None` without one.
    """

    weight: Tensor
    step: Tensor
    bits: int
    float_weight: Tensor
    float_bias: Tensor | None
    bias_error: Tensor | None = None
    """What rounding to the leak adds to the bias, [C], while the layer is trained."""

    def rounded_bias(self) -> Tensor | None:
        """The bias, as the leak will have it."""
        bias = self._parameters["bias"]
        return bias if bias is None or self.bias_error is None else bias + self.bias_error

    def quantize(self, bits: int, *, per_channel: bool) -> None:
        """Set the bits and fit the step to the weight."""
        self.bits = bits
        self.register_buffer("step", lowbit.fit_step(self.weight, bits, per_channel=per_channel))
        bias = self._parameters["bias"]
        self.register_buffer("float_weight", self.weight.detach())
        self.register_buffer("float_bias", None if bias is None else bias.detach())

    def learn_step(self) -> None:
        """Make the step a parameter."""
        step = self.step
        del self.step
        self.step = nn.Parameter(step.clone())

    def fix_step(self) -> None:
        """Make the step a buffer again."""
        step = self.step.detach().clone()
        del self.step
        self.register_buffer("step", step)

    def raise_step(self, least: float) -> None:
        """Raise what training has taken below the smallest step of the layer, or below `least`."""
        with torch.no_grad():
            self.step.clamp_(min=least)
            self.step.copy_(lowbit.raised_to_floor(self.step, self.step.median()))

    def quantized_weight(self) -> Tensor:
        """`step * code`, shape of the weight."""
        return lowbit.quantize_weight(self.weight, self.step, self.bits)

    def codes(self) -> Tensor:
        """Integer weight codes, int8, shape of the weight."""
        return lowbit.weight_codes(self.weight.detach(), self.step, self.bits).to(torch.int8)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{super().extra_repr()}, bits={self.bits}"


class LowBitConv2d(LowBit, nn.Conv2d):
    """A convolution with n-bit weights."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        return self._conv_forward(x, self.quantized_weight(), self.rounded_bias())


class LowBitLinear(LowBit, nn.Linear):
    """A fully connected layer with n-bit weights."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return F.linear(x, self.quantized_weight(), self.rounded_bias())


class Spiking(nn.Module):
    """A layer with integrate-and-fire neurons behind it. Membranes live inside one call only.

    Before conversion `dynamics` is `None` and the layer is its PyTorch namesake. Afterwards it holds integers:

    Attributes:
        dynamics: timesteps, reset and start of the membranes.
        codes: weight codes, int8 (none in a pooling layer: all its weights are 1).
        gain: codebook gain.
        threshold: int32 [C].
        leak: int32 [C].
        step: weight step, float64 [C].
        spike_value: what a spike is worth in activation units, float64 [C].
        real_threshold: the threshold before it was rounded, in activation units, float64 [1].
        real_bias: the bias before it was rounded to the leak, in activation units, float64 [C].
        input_unit: what one unit of the input is worth in activation units.
        input_magnitude: the largest magnitude an input can have: 1 for spikes, `None` for the analog input.
        constant_input: the input does not change over time and comes without a time axis.
    """

    dynamics: Dynamics | None = None
    bits: int = 0
    gain: int = 1
    threshold: Tensor
    leak: Tensor
    step: Tensor
    spike_value: Tensor
    real_threshold: Tensor
    real_bias: Tensor
    input_unit: float = 1.0
    input_magnitude: int | None = 1
    constant_input: bool = False
    largest_sum: int = 0
    largest_leak: int = 0
    largest_threshold: int = 0

    def become_spiking(self, neuron: IntegerNeuron, step: Tensor, dynamics: Dynamics) -> None:
        """Take over the integers."""
        self.gain = neuron.gain
        self.largest_leak, self.largest_threshold = int(neuron.leak.abs().max()), int(neuron.threshold.max())
        self.register_buffer("threshold", neuron.threshold)
        self.register_buffer("leak", neuron.leak)
        self.register_buffer("step", step.double().expand(len(neuron.threshold)).clone())
        self.register_buffer("spike_value", neuron.spike_value.clone())
        self.dynamics = dynamics

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over the inputs of code times input, without gain and leak; the layer says how."""
        raise NotImplementedError(type(self).__name__)  # every layer of this file overrides it

    def sums(self, x: Tensor) -> Tensor:
        """`weighted_sum` in its own type, whatever autocast says: a sum with fewer bits would change spikes."""
        with torch.autocast(x.device.type, enabled=False):
            return self.weighted_sum(x)

    def fire(self, x: Tensor, record: Callable[[Tensor], None] | None = None) -> Tensor:
        """Spikes [T * N, C, ...] for an input [T * N, ...] of spikes, or [N, ...] where the input is constant.

        Args:
            x: the input.
            record: called at each step with the membranes before the reset.
        """
        assert self.dynamics is not None
        drive = self.drive(x).unflatten(0, (1 if self.constant_input else self.dynamics.timesteps, -1))
        return integrate_and_fire(drive, self.threshold, self.dynamics, record).flatten(0, 1)

    def drive(self, x: Tensor) -> Tensor:
        """What an input adds to the membranes, gain and leak included: integers, or floats for the analog input."""
        sums = self.sums(x)
        if self.input_magnitude is not None:
            # Sums of integers are whole; rounding takes off what a transform-based convolution may leave behind.
            sums = sums.round().to(self.membrane_type())
        return sums * self.gain + self.leak.view(-1, *[1] * (sums.dim() - 2)).to(sums.dtype)

    def sum_type(self) -> torch.dtype:
        """A floating type in which no partial sum of the layer leaves the range of exact integers.

        Inputs of float32 must fit bfloat16 too: some processors multiply in fewer bits, if PyTorch is allowed to.
        """
        if self.input_magnitude is None or self.input_magnitude > _EXACT_IN_BFLOAT16 or self.largest_sum >= 1 << 24:
            return torch.float64
        return torch.float32

    def membrane_type(self) -> torch.dtype:
        """An integer type that holds the membrane after T steps in the worst case."""
        assert self.dynamics is not None
        steps = self.dynamics.timesteps
        worst = steps * (self.gain * self.largest_sum + self.largest_leak) + 2 * self.largest_threshold
        return torch.int32 if worst < 1 << 31 else torch.int64

    def run_with(self, dynamics: Dynamics) -> None:
        """Use other dynamics from now on."""
        self.dynamics = dynamics

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move to a device as any module does, but keep the types: a cast must not change a spike."""
        types = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        originals = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        if self.dynamics is not None:
            for name, dtype in types.items():
                moved, original = self._buffers[name], originals[name]
                assert moved is not None
                assert original is not None
                if moved.dtype != dtype:
                    self._buffers[name] = original.to(moved.device)
        return self

    def extra_repr(self) -> str:
        """Shown in dumps."""
        if self.dynamics is None:
            return super().extra_repr()
        low, high = int(self.threshold.min()), int(self.threshold.max())
        weights = f"bits={self.bits}, gain={self.gain}, " if self.bits else ""
        return f"{super().extra_repr()}, {weights}threshold={low}..{high}"


class SpikeConv2d(Spiking, nn.Conv2d):
    """A spiking convolution; before conversion a plain `nn.Conv2d` (write `SpikeReLU` behind it)."""

    codes: Tensor

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Convolution with the codes."""
        dtype = self.sum_type()
        return self._conv_forward(x.to(dtype), self.codes.to(dtype), None)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d` before conversion; spikes afterwards."""
        return super().forward(x) if self.dynamics is None else self.fire(x)


class SpikeLinear(Spiking, nn.Linear):
    """A spiking fully connected layer; before conversion a plain `nn.Linear` (write `SpikeReLU` behind it)."""

    codes: Tensor

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Product with the codes."""
        dtype = self.sum_type()
        return F.linear(x.to(dtype), self.codes.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear` before conversion; spikes afterwards."""
        return super().forward(x) if self.dynamics is None else self.fire(x)


def spiking_form(
    source: LowBitConv2d | LowBitLinear,
    neuron: IntegerNeuron,
    dynamics: Dynamics,
    *,
    threshold: float,
    input_unit: float,
    input_magnitude: int | None,
    constant_input: bool,
) -> SpikeConv2d | SpikeLinear:
    """The spiking layer that a layer with n-bit weights becomes; `threshold` is the real one, see also `Spiking`."""
    bias = torch.zeros_like(neuron.spike_value) if source.bias is None else source.bias.detach().double().clone()
    layer: SpikeConv2d | SpikeLinear
    layer = conv_like(SpikeConv2d, source) if isinstance(source, LowBitConv2d) else linear_like(SpikeLinear, source)
    fill(
        layer,
        source.codes(),
        source.bits,
        neuron,
        source.step,
        dynamics,
        real_threshold=neuron.spike_value.new_tensor([threshold]),
        real_bias=bias,
        input_unit=input_unit,
        input_magnitude=input_magnitude,
        constant_input=constant_input,
    )
    return layer


def fill(
    layer: SpikeConv2d | SpikeLinear,
    codes: Tensor,
    bits: int,
    neuron: IntegerNeuron,
    step: Tensor,
    dynamics: Dynamics,
    *,
    real_threshold: Tensor,
    real_bias: Tensor,
    input_unit: float,
    input_magnitude: int | None,
    constant_input: bool,
) -> None:
    """Give a layer that has its geometry the codes, integers and real values of `Spiking`."""
    layer.bits = bits
    layer.register_parameter("weight", None)
    layer.register_parameter("bias", None)
    layer.register_buffer("codes", codes)
    layer.register_buffer("real_threshold", real_threshold)
    layer.register_buffer("real_bias", real_bias)
    layer.input_unit, layer.input_magnitude, layer.constant_input = input_unit, input_magnitude, constant_input
    layer.largest_sum = int(codes.flatten(1).int().abs().sum(1).max()) * (input_magnitude or 0)
    layer.become_spiking(neuron, step, dynamics)


class SpikeAvgPool2d(Spiking, nn.AvgPool2d):
    """Average pooling with neurons: weights 1, threshold the window's size, so that its output is spikes again.

    Before conversion a plain `nn.AvgPool2d`.
    """

    @classmethod
    def compiled(cls, pool: nn.AvgPool2d, spike_value: Tensor, dynamics: Dynamics) -> SpikeAvgPool2d:
        """The spiking form of an average pooling whose input spikes are worth `spike_value`, float64 [C]."""
        layer = cls(pool.kernel_size, pool.stride, pool.padding)
        height, width = layer.window()
        channels = len(spike_value)
        whole = torch.ones(channels, dtype=torch.int32, device=spike_value.device)
        neuron = IntegerNeuron(1, whole * (height * width), whole * 0, spike_value)
        layer.largest_sum = height * width
        layer.become_spiking(neuron, torch.ones_like(spike_value), dynamics)
        return layer.train(pool.training)

    def window(self) -> tuple[int, int]:
        """Height and width of the window."""
        size = self.kernel_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over each window."""
        if torch.compiler.is_compiling():  # torch.onnx drops a divisor without a word; `drive` rounds what this leaves
            height, width = self.window()
            return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding) * (height * width)
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.AvgPool2d` before conversion; spikes afterwards."""
        return super().forward(x) if self.dynamics is None else self.fire(x)


class SpikeReLU(nn.ReLU):
    """What to write behind `SpikeConv2d` and `SpikeLinear`: a ReLU that conversion turns into the layer's neurons."""


def spike_avg_pooling(
    x: Tensor, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int = 0
) -> Tensor:
    """The functional form of `SpikeAvgPool2d`, for networks written by hand: average pooling until it is converted."""
    return F.avg_pool2d(x, kernel_size, stride, padding)


def check_images(images: object, channels: int | None) -> None:
    """Refuse what cannot be images for the network.

    Args:
        images: what the user gave.
        channels: what the first convolution reads, `None` where that is not known.

    Raises:
        DataError: no tensor, wrong rank, wrong number of channels, no floating type, or not-a-number in it.
    """
    expected = f"[N, {channels if channels is not None else 'C'}, H, W] of a floating type"
    if not isinstance(images, Tensor):
        raise DataError(f"images are a {type(images).__name__}; expected a tensor {expected}")
    shape = list(images.shape)
    if images.dim() != 4:
        raise DataError(f"images have shape {shape}; expected {expected}")
    if channels is not None and images.shape[1] != channels:
        raise DataError(f"images have shape {shape}, that is {shape[1]} channels; expected {expected}")
    if not images.is_floating_point():
        raise DataError(
            f"images are {images.dtype}; expected {expected}, normalised as the network was trained on them"
        )
    if not torch.compiler.is_compiling() and bool(images.isnan().any()):
        raise DataError("images contain NaN")


class Encode(nn.Module):
    """Images to the integer input of the first layer, a constant current at every step.

    Args:
        unit: the input step; 1 for the analog input.
        bits: width of the signed input, or `None` for the analog input.
        channels: what the first layer reads, `None` where that is not known.
    """

    def __init__(self, unit: float, bits: int | None, channels: int | None) -> None:
        super().__init__()
        self.unit = unit
        self.bits = bits
        self.channels = channels

    @property
    def magnitude(self) -> int | None:
        """The largest magnitude of the integer input; `None` for the analog one."""
        return None if self.bits is None else 1 << (self.bits - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Integers in float32, [N, C, H, W]; the images as they are for the analog input.

        Raises:
            DataError: these cannot be images for the network.
        """
        check_images(images, self.channels)
        return images if self.bits is None else quantize_input(images, self.unit, self.bits).float()

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return "analog" if self.bits is None else f"unit={self.unit:.6g}, bits={self.bits}"


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
        return self.values_after_each_step(self._unfolded(spikes).cumsum(0))

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


HAND_WRITTEN = (SpikeConv2d, SpikeLinear, SpikeAvgPool2d, SpikeReLU)
"""Layers that a user may write into a network."""

LEAVES = (ClippedReLU, RateReLU, QuantizedInput, LowBit, Spiking, SpikeReLU, Encode, Decode, _Folded)
"""Layers that tracing does not look into."""
