"""Layers with neurons.

`SpikeConv2d`, `SpikeLinear`, `SpikeAvgPool2d` and `SpikeReLU` can also be written by hand: until they are converted
they are the PyTorch layers of the same names, and train as such.

Between spiking layers, time is folded into the batch: [T * N, ...], time first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.ambient import is_recorded
from fxsnn.layers.geometry import layer_like, pair
from fxsnn.layers.low_bit import LowBitConv2d, LowBitLinear
from fxsnn.layers.padded import PaddedConv2d
from fxsnn.layers.synapses import Integers, largest_sum_of
from fxsnn.layers.wiring import Taps
from fxsnn.numerics import Codebook, Dynamics, IntegerNeuron, integrate_and_fire


class Spiking(Integers):
    """A layer with integrate-and-fire neurons behind it. Membranes live inside one call only.

    Before conversion `dynamics` is `None` and the layer is its PyTorch namesake. Afterwards it holds integers, those of
    `Integers` (a pooling layer has no codes: all its weights are 1) and

    Attributes:
        gain: codebook gain.
        threshold: int32 [C].
        leak: int32 [C].
        step: weight step, float64 [C].
        spike_value: what a spike is worth in activation units, float64 [C].
        real_threshold: the threshold before it was rounded, in activation units, float64 [1].
        real_bias: the bias before it was rounded to the leak, in activation units, float64 [C].
        unbounded: its membranes are to hold any number of steps.
    """

    gain: int = 1
    threshold: Tensor
    leak: Tensor
    step: Tensor
    spike_value: Tensor
    real_threshold: Tensor
    real_bias: Tensor
    largest_leak: int = 0
    largest_threshold: int = 0
    unbounded: bool = False

    def become_spiking(self, neuron: IntegerNeuron, step: Tensor, dynamics: Dynamics) -> None:
        """Take over the integers."""
        self.gain = neuron.gain
        self.largest_leak, self.largest_threshold = int(neuron.leak.abs().max()), int(neuron.threshold.max())
        self.register_buffer("threshold", neuron.threshold)
        self.register_buffer("leak", neuron.leak)
        self.register_buffer("step", step.double().expand(len(neuron.threshold)).clone())
        self.register_buffer("spike_value", neuron.spike_value.clone())
        self.run_with(dynamics)

    def whole_numbers(self) -> tuple[str, ...]:
        """See `Integers`."""
        return ("codebook_number", "gain", "input_magnitude", "largest_sum", "largest_leak", "largest_threshold")

    def fire(self, *inputs: Tensor, record: Callable[[Tensor], None] | None = None) -> Tensor:
        """Spikes [T * N, C, ...] for an input [T * N, ...] of spikes, or [N, ...] where the input is constant.

        Args:
            inputs: one, but for neurons that add up several.
            record: called at each step with the membranes before the reset.
        """
        assert self.dynamics is not None
        drive = self.drive(*inputs).unflatten(0, (1 if self.constant_input else self.dynamics.timesteps, -1))
        return integrate_and_fire(drive, self.threshold, self.dynamics, record).flatten(0, 1)

    def drive(self, *inputs: Tensor) -> Tensor:
        """What an input adds to the membranes, gain and leak included: integers, or floats for the analog input."""
        (x,) = inputs
        sums = self.sums(x)
        if self.input_magnitude is not None:
            # Sums of integers are whole; rounding takes off what a transform-based convolution may leave behind.
            sums = sums.round().to(self.membrane_type())
        return sums * self.gain + self.leak.view(-1, *[1] * (sums.dim() - 2)).to(sums.dtype)

    def membrane_type(self) -> torch.dtype:
        """An integer type that holds the membrane after T steps in the worst case."""
        assert self.dynamics is not None
        if self.unbounded:
            return torch.int64
        steps = self.dynamics.timesteps
        worst = steps * (self.gain * self.largest_sum + self.largest_leak) + 2 * self.largest_threshold
        return torch.int32 if worst < 1 << 31 else torch.int64

    def extra_repr(self) -> str:
        """Shown in dumps."""
        if self.dynamics is None:
            return super().extra_repr()
        thresholds = dict.fromkeys(f"{int(end)}" for end in self.threshold.aminmax())
        weights = f"bits={self.bits}, gain={self.gain}" if self.bits else ""
        shown = (super().extra_repr(), weights, f"threshold={'..'.join(thresholds)}")
        return ", ".join(part for part in shown if part)


class SpikeConv2d(Spiking, PaddedConv2d):
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
    layer = layer_like(source, SpikeConv2d, SpikeLinear)
    fill(
        layer,
        source.codes(),
        source.codebook,
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
    codebook: Codebook,
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
    layer.codebook = codebook
    layer.register_parameter("weight", None)
    layer.register_parameter("bias", None)
    layer.register_buffer("codes", codes)
    layer.register_buffer("real_threshold", real_threshold)
    layer.register_buffer("real_bias", real_bias)
    layer.input_unit, layer.input_magnitude, layer.constant_input = input_unit, input_magnitude, constant_input
    layer.largest_sum = largest_sum_of(codes, input_magnitude)
    layer.become_spiking(neuron, step, dynamics)


class SpikePool2d(Spiking):
    """Neurons that add up the spikes of a window, in each channel by itself: weights 1, one threshold, no leak.

    Their spikes are worth what those are worth that they read.
    """

    def windows(self) -> tuple[Taps, Taps]:
        """Down and across; the layer says which."""
        raise NotImplementedError(type(self).__name__)  # every pooling overrides it

    def window(self) -> tuple[int, int]:
        """Height and width of the window."""
        down, across = self.windows()
        return down.kernel, across.kernel

    def become_pooling(self, threshold: int, spike_value: Tensor, dynamics: Dynamics) -> None:
        """Take over the integers; `spike_value` is what spikes that are read are worth, float64 [C]."""
        height, width = self.window()
        whole = torch.ones(len(spike_value), dtype=torch.int32, device=spike_value.device)
        self.largest_sum = height * width
        neuron = IntegerNeuron(1, whole * threshold, whole * 0, spike_value)
        self.become_spiking(neuron, torch.ones_like(spike_value), dynamics)


class SpikeAvgPool2d(SpikePool2d, nn.AvgPool2d):
    """Average pooling with neurons: weights 1, threshold the window's size, so that its output is spikes again.

    Before conversion a plain `nn.AvgPool2d`.
    """

    @classmethod
    def compiled(cls, pool: nn.AvgPool2d, spike_value: Tensor, dynamics: Dynamics) -> SpikeAvgPool2d:
        """The spiking form of an average pooling whose input spikes are worth `spike_value`, float64 [C]."""
        layer = cls(pool.kernel_size, pool.stride, pool.padding)
        height, width = layer.window()
        layer.become_pooling(height * width, spike_value, dynamics)
        return layer.train(pool.training)

    def windows(self) -> tuple[Taps, Taps]:
        """Down and across."""
        kernel, stride, padding = map(pair, (self.kernel_size, self.stride, self.padding))
        return Taps(kernel[0], stride[0], padding[0]), Taps(kernel[1], stride[1], padding[1])

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over each window."""
        if is_recorded():  # torch.onnx drops a divisor without a word; `drive` rounds what this leaves
            height, width = self.window()
            return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding) * (height * width)
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.AvgPool2d` before conversion; spikes afterwards."""
        return super().forward(x) if self.dynamics is None else self.fire(x)


class SpikeReLU(nn.ReLU):
    """What to write behind `SpikeConv2d` and `SpikeLinear`: a ReLU that conversion turns into the layer's neurons."""


def spike_avg_pooling(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """The functional form of `SpikeAvgPool2d`, for networks written by hand: average pooling until it is converted.

    Args:
        x: [N, C, H, W].
        kernel_size: height and width of the window.
        stride: `None`: as the window.
        padding: zeros on each side.
    """
    return F.avg_pool2d(x, kernel_size, stride, padding)
