"""Sums of several inputs: residual connections in float, and the neurons that take their place."""

from __future__ import annotations

import torch
from torch import Tensor

from fxsnn.layers.kept_types import KeptTypes
from fxsnn.layers.spiking import Spiking
from fxsnn.numerics import Dynamics, IntegerNeuron, JointNeuron


class Add(KeptTypes):
    """The sum of several inputs, each times a factor of each channel, and a shift.

    Args:
        factor: [inputs, C], or [inputs, 1] for all channels alike; kept as float64 whatever the module is cast to.
        shift: [C] or [1].
        float_shift: `None`: the same.

    Attributes:
        float_shift: the shift of the network before biases were corrected.
        correction: [inputs, C] and [C], what rounding to integers multiplies each input by and adds, while it is
            trained; else `None`.
    """

    factor: Tensor
    shift: Tensor
    float_shift: Tensor

    def __init__(self, factor: Tensor, shift: Tensor, float_shift: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("factor", factor.detach().double())
        self.register_buffer("shift", shift.detach().double())
        self.register_buffer("float_shift", (shift if float_shift is None else float_shift).detach().double())
        self.correction: tuple[Tensor, Tensor] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is multiplied or shifted."""
        return bool((self.factor == 1).all() and (self.shift == 0).all())

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of tensors [N, C, ...], of their type."""
        factor, shift = self.factor, self.shift
        if self.correction is not None:
            factor, shift = factor * self.correction[0], shift + self.correction[1]
        elif not factor.is_meta and self.is_plain:
            total = inputs[0]
            for x in inputs[1:]:
                total = total + x
            return total
        view = (-1, *[1] * (inputs[0].dim() - 2))
        total = shift.to(inputs[0].dtype).view(view)
        for x, one in zip(inputs, factor, strict=True):
            total = total + x * one.to(x.dtype).view(view)
        return total

    def extra_repr(self) -> str:
        """Shown in dumps."""
        inputs = len(self.factor)
        if self.factor.is_meta or self.is_plain:
            return f"{inputs} inputs"
        ends = ((f"{float(end):.4g}" for end in row.aminmax()) for row in self.factor)
        factors = ", ".join("..".join(dict.fromkeys(pair)) for pair in ends)
        return f"{inputs} inputs, factors {factors}"


class SpikeAdd(Spiking):
    """Neurons that add up several inputs: drives of `Synapses`, and spikes times an integer of each channel.

    `V += Σ_i w_i · x_i + β`, where `x_i` are spikes, or what `Synapses` give, whose gain is in it: their `w_i` is 1.

    Attributes:
        weights: int32 [inputs, C].
        real_weights: what a code, or a spike that is added as it is, is worth in activation units before it was rounded
            to the gain or the weight, float64 [inputs, C].
        constant: for each input, whether it is the same at every step and comes without a time axis.
    """

    weights: Tensor
    real_weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.constant: tuple[bool, ...] = ()

    def join(
        self,
        neuron: JointNeuron,
        weights: Tensor,
        dynamics: Dynamics,
        *,
        real_threshold: Tensor,
        real_bias: Tensor,
        real_weights: Tensor,
        constant: tuple[bool, ...],
        largest_sum: int,
        analog: bool,
    ) -> None:
        """Take over the integers.

        Args:
            neuron: threshold, leak and spike value.
            weights: int32 [inputs, C].
            dynamics: of the network.
            real_threshold: see `Spiking`.
            real_bias: see `Spiking`.
            real_weights: see there.
            constant: see there.
            largest_sum: the largest magnitude that one step without the leak can add.
            analog: an input is not rounded.
        """
        self.register_buffer("weights", weights)
        self.register_buffer("real_weights", real_weights)
        self.register_buffer("real_threshold", real_threshold)
        self.register_buffer("real_bias", real_bias)
        self.constant, self.constant_input = constant, all(constant)
        self.input_magnitude = None if analog else 1
        self.largest_sum = largest_sum
        whole = IntegerNeuron(1, neuron.threshold, neuron.leak, neuron.spike_value)
        self.become_spiking(whole, neuron.grain, dynamics)

    def drive(self, *inputs: Tensor) -> Tensor:
        """What the inputs add to the membranes, leak included."""
        assert self.dynamics is not None
        kind = self.membrane_type() if self.input_magnitude is not None else torch.float64
        view = (1, 1, -1, *[1] * (inputs[0].dim() - 2))
        total = self.leak.view(view).to(kind)
        for x, weight, constant in zip(inputs, self.weights, self.constant, strict=True):
            steps = 1 if constant else self.dynamics.timesteps
            total = total + x.unflatten(0, (steps, -1)).to(kind) * weight.view(view).to(kind)
        return total.flatten(0, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Spikes."""
        return self.fire(*inputs)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{len(self.constant)} inputs, {super().extra_repr()}"
