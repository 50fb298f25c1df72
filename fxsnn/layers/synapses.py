"""What is common to all layers of a spiking network with integers: codes, gains, and sums over inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.layers.kept_types import KeptTypes
from fxsnn.layers.padded import PaddedConv2d
from fxsnn.layers.plain_numbers import PlainNumbers
from fxsnn.numerics import Codebook, Dynamics

_EXACT_IN_BFLOAT16 = 1 << 8


class Integers(PlainNumbers, KeptTypes):
    """A layer that holds integers once it is converted; a cast does not change them.

    Attributes:
        dynamics: timesteps, reset and start of the membranes; `None` before conversion.
        codebook: what its codes are made of; `None` before conversion, and where there are none.
        codes: weight codes, int8: levels of the codebook.
        input_unit: what one unit of the input is worth in activation units.
        input_magnitude: the largest magnitude an input can have: 1 for spikes, `None` for the analog input.
        constant_input: the input does not change over time and comes without a time axis.
        largest_sum: the largest magnitude of the sum of codes times inputs.
    """

    dynamics: Dynamics | None = None
    codebook: Codebook | None = None
    input_unit: float = 1.0
    input_magnitude: int | None = 1
    constant_input: bool = False
    largest_sum: int = 0

    def whole_numbers(self) -> tuple[str, ...]:
        """Names of attributes that belong to the integers."""
        return ("codebook_number", "input_magnitude", "largest_sum")

    @property
    def bits(self) -> int:
        """Weight bits, 0 without codes."""
        return 0 if self.codebook is None else self.codebook.bits

    @property
    def codebook_number(self) -> int:
        """The codebook as a number, 0 without codes."""
        return 0 if self.codebook is None else self.codebook.number

    @codebook_number.setter
    def codebook_number(self, number: int) -> None:
        self.codebook = Codebook.numbered(number) if number else None

    def numbers(self) -> Mapping[str, type[int] | type[float]]:
        """Of a converted layer, all that belongs to its integers."""
        return {} if self.dynamics is None else {**dict.fromkeys(self.whole_numbers(), int), "input_unit": float}

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over the inputs of code times input, without gain and leak; the layer says how."""
        raise NotImplementedError(type(self).__name__)  # every layer that sums overrides it

    def sums(self, x: Tensor) -> Tensor:
        """`weighted_sum` in its own type, whatever autocast says: a sum with fewer bits would change spikes."""
        with torch.autocast(x.device.type, enabled=False):
            return self.weighted_sum(x)

    def sum_type(self) -> torch.dtype:
        """A floating type in which no partial sum of the layer leaves the range of exact integers.

        Inputs of float32 must fit bfloat16 too: some processors multiply in fewer bits, if PyTorch is allowed to.
        """
        if self.input_magnitude is None or self.input_magnitude > _EXACT_IN_BFLOAT16 or self.largest_sum >= 1 << 24:
            return torch.float64
        return torch.float32

    def run_with(self, dynamics: Dynamics) -> None:
        """Use other dynamics from now on."""
        self.dynamics = dynamics

    def keeps_types(self) -> bool:
        """See `KeptTypes`: a cast must not change a spike."""
        return self.dynamics is not None


class Synapses(Integers):
    """A layer with weights whose sums go to neurons that add up several inputs (`SpikeAdd`).

    Attributes:
        gain: int32 [C], codebook gain of each output channel.
        step: weight step, float64 [C].
    """

    codes: Tensor
    gain: Tensor
    step: Tensor

    def connect(
        self,
        codes: Tensor,
        codebook: Codebook,
        step: Tensor,
        gain: Tensor,
        dynamics: Dynamics,
        *,
        input_unit: float,
        input_magnitude: int | None,
        constant_input: bool,
    ) -> None:
        """Take over the integers, and give up the float weights."""
        self.codebook, self.dynamics = codebook, dynamics
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self.register_buffer("codes", codes)
        self.register_buffer("gain", gain)
        self.register_buffer("step", step)
        self.input_unit, self.input_magnitude, self.constant_input = input_unit, input_magnitude, constant_input
        self.largest_sum = largest_sum_of(codes, input_magnitude)

    @property
    def largest_drive(self) -> int:
        """The largest magnitude of what it gives."""
        return self.largest_sum * int(self.gain.abs().max())

    def forward(self, x: Tensor) -> Tensor:
        """Gain times sum, [T * N, C, ...], whole numbers in int64, floats for the analog input; without a time axis,
        [N, C, ...], where the input is constant.
        """
        sums = self.sums(x)
        if self.input_magnitude is not None:
            # Sums of integers are whole; rounding takes off what a transform-based convolution may leave behind.
            sums = sums.round().to(torch.int64)
        return sums * self.gain.view(-1, *[1] * (sums.dim() - 2)).to(sums.dtype)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{super().extra_repr()}, bits={self.bits}, gain={int(self.gain.min())}..{int(self.gain.max())}"


def largest_sum_of(codes: Tensor, input_magnitude: int | None) -> int:
    """The largest magnitude that a sum of codes times inputs can have; 0 for the analog input."""
    return int(codes.flatten(1).int().abs().sum(1).max()) * (input_magnitude or 0)


class SynapseConv2d(Synapses, PaddedConv2d):
    """A convolution of spikes that gives no spikes itself."""

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Convolution with the codes."""
        dtype = self.sum_type()
        return self._conv_forward(x.to(dtype), self.codes.to(dtype), None)


class SynapseLinear(Synapses, nn.Linear):
    """A fully connected layer that gives no spikes itself."""

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Product with the codes."""
        dtype = self.sum_type()
        return F.linear(x.to(dtype), self.codes.to(dtype))
