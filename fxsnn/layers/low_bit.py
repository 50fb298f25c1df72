"""Layers with weights of 1 to 4 bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.layers.affine import along_inputs
from fxsnn.layers.padded import PaddedConv2d
from fxsnn.numerics import SYMMETRIC, Codebook, fitted_codebook, lowbit


class LowBit(nn.Module):
    """A layer with n-bit weights in float arithmetic: `weight` is the trainable shadow, `step * code` is what is used.

    Attributes:
        codebook: the levels that its codes are made of.
        step: weight step, [C] per output channel or [1] per layer.
        float_weight: the weight before it was quantised; training leaves it as it is.
        float_bias: the same of the bias, `None` without one.
        input_scale: what a spike of each input is worth, relative to their mean, float64 [inputs], where that differs
            behind a concatenation; it is in the codes, so that one unit serves all inputs. `None`: it is 1.
    """

    weight: Tensor
    step: Tensor
    codebook: Codebook
    float_weight: Tensor
    float_bias: Tensor | None
    input_scale: Tensor | None
    bias_error: Tensor | None = None
    """What rounding to the leak adds to the bias, [C], while the layer is trained."""
    step_ratio: Tensor | None = None
    """By what the step is off where other neurons add up the sums, [C], while the layer is trained: see `Synapses`."""

    def rounded_bias(self) -> Tensor | None:
        """The bias, as the leak will have it."""
        bias = self._parameters["bias"]
        return bias if bias is None or self.bias_error is None else bias + self.bias_error

    @property
    def bits(self) -> int:
        """Weight bits, 1 to 4."""
        return self.codebook.bits

    def quantize(
        self, bits: int, codebook: str = SYMMETRIC, *, per_channel: bool, input_scale: Tensor | None = None
    ) -> None:
        """Choose the codebook, one of `fxsnn.chip.CODEBOOKS`, and fit the step to the weight."""
        self.register_buffer("input_scale", input_scale)
        self.codebook = fitted_codebook(self.scaled(self.weight), bits, codebook, per_channel=per_channel)
        self.register_buffer("step", lowbit.fit_step(self.scaled(self.weight), self.codebook, per_channel=per_channel))
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
        """`step * code`, over the scale of the input: shape of the weight."""
        step = self.step if self.step_ratio is None else self.step * self.step_ratio
        quantized = lowbit.quantize_weight(self.scaled(self.weight), step, self.codebook)
        if self.input_scale is None:
            return quantized
        return quantized / along_inputs(self.input_scale.to(quantized.dtype), self)

    def shadow(self, weight: Tensor) -> None:
        """Write over the weight, in place, with one that is in the units in which it is rounded."""
        if self.input_scale is not None:
            weight = weight / along_inputs(self.input_scale.to(weight.dtype), self)
        self.weight.copy_(weight)

    def scaled(self, weight: Tensor) -> Tensor:
        """A weight of this layer in the units in which it is rounded."""
        return weight if self.input_scale is None else weight * along_inputs(self.input_scale.to(weight.dtype), self)

    def codes(self, step_ratio: Tensor | None = None) -> Tensor:
        """Integer weight codes, int8, shape of the weight; `step_ratio`, [C], times the step instead of that alone."""
        step = self.step if step_ratio is None else self.step.detach() * step_ratio.to(self.step.dtype)
        return lowbit.weight_codes(self.scaled(self.weight).detach(), step, self.codebook).to(torch.int8)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{super().extra_repr()}, bits={self.bits}, codebook={self.codebook}"


class LowBitConv2d(LowBit, PaddedConv2d):
    """A convolution with n-bit weights."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        return self._conv_forward(x, self.quantized_weight(), self.rounded_bias())


class LowBitLinear(LowBit, nn.Linear):
    """A fully connected layer with n-bit weights."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return F.linear(x, self.quantized_weight(), self.rounded_bias())
