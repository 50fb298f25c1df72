"""The numeric contract of a converted network once more, in integers of numpy and one loop over time.

It is written from the contract's formulas alone, as slowly and plainly as they stand there. Codes, sums, membranes and
spikes are int64; float64 appears only where the contract rounds a real number or decodes a count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
"""Padding above and below, left and right."""
Reset = Literal["subtraction", "zero"]


# From real numbers to integers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widths:
    """Widths in bits of the signed registers; those of Hardware v1.0 unless given."""

    codebook: int = 11
    threshold: int = 18
    leak: int = 19


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A batch norm in evaluation mode, each array [C]."""

    mean: Reals
    variance: Reals
    scale: Reals
    shift: Reals
    eps: float


def folded(weight: Reals, bias: Reals, norm: BatchNorm | None) -> tuple[Reals, Reals]:
    """Weight [C, ...] and bias [C] of the one layer that does what the layer and its batch norm do."""
    if norm is None:
        return weight, bias
    factor = norm.scale / np.sqrt(norm.variance + norm.eps)
    return weight * along_first_axis(factor, weight), (bias - norm.mean) * factor + norm.shift


def along_first_axis(values: Reals, like: Reals) -> Reals:
    """`values` [C] shaped so that they broadcast over `like` [C, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


Levels = tuple[int, ...]


def symmetric_levels(bits: int) -> Levels:
    """-Q..Q; at 1 bit -1 and 1."""
    return (-1, 1) if bits == 1 else tuple(range(1 - 2 ** (bits - 1), 2 ** (bits - 1)))


def are_levels(levels: Levels, bits: int, codebook: str) -> bool:
    """Whether a layer of so many bits may have these levels."""
    if bits == 1 or codebook == "symmetric":
        return levels == symmetric_levels(bits)
    full = tuple(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    if levels in (symmetric_levels(bits), full, tuple(-level for level in reversed(full))):
        return True
    free = len(levels) == 2**bits and sorted(set(levels)) == list(levels) and max(map(abs, levels)) <= 15
    return codebook == "free" and free


def largest_code(levels: Levels) -> int:
    """Q: the largest magnitude of a level."""
    return max(abs(level) for level in levels)


def weight_codes(weight: Reals, step: Reals, levels: Levels) -> Integers:
    """q for a weight [C, ...] and a step [C]: the level nearest to W/Δ.

    Of two as near it is the even one, of two even or two odd ones the larger. Of two levels alone, ±1, the sign counts.
    """
    ratio = weight if levels == (-1, 1) else weight / along_first_axis(step, weight)
    distance = np.abs(ratio[..., None] - np.array(levels))
    nearest = distance == distance.min(axis=-1, keepdims=True)
    even = nearest & (np.array(levels) % 2 == 0)
    single = (nearest.sum(axis=-1, keepdims=True) == 2) & (even.sum(axis=-1, keepdims=True) == 1)
    candidates = np.where(single, even, nearest)
    return np.array(levels)[len(levels) - 1 - candidates[..., ::-1].argmax(axis=-1)].astype(np.int64)


def real_threshold(threshold: float, step: Reals, unit: float, gain: int) -> Reals:
    """λ·m / (Δ·u), before rounding."""
    return threshold * gain / (step * unit)


def real_leak(bias: Reals, step: Reals, unit: float, gain: int) -> Reals:
    """b·m / (Δ·u), before rounding."""
    return bias * gain / (step * unit)


def integer_threshold(threshold: float, step: Reals, unit: float, gain: int) -> Integers:
    """θ of every channel, at least 1."""
    return np.maximum(1, np.rint(real_threshold(threshold, step, unit, gain))).astype(np.int64)


def integer_leak(bias: Reals, step: Reals, unit: float, gain: int) -> Integers:
    """β of every channel."""
    return np.rint(real_leak(bias, step, unit, gain)).astype(np.int64)


def spike_value(theta: Integers, step: Reals, unit: float, gain: int) -> Reals:
    """s of every channel: λ after rounding."""
    return theta * step * unit / gain


def fits(values: Integers, width: int) -> bool:
    """Whether every value fits a signed register of `width` bits."""
    return bool(np.all(values >= -(2 ** (width - 1))) and np.all(values <= 2 ** (width - 1) - 1))


def largest_gain(threshold: float, bias: Reals, step: Reals, unit: float, levels: Levels, widths: Widths) -> int:
    """m: the largest gain at which codebook, thresholds and leaks all fit their registers."""

    def everything_fits(gain: int) -> bool:
        top = largest_code(levels)
        return (
            fits(np.array([-top, top]) * gain, widths.codebook)
            and fits(integer_threshold(threshold, step, unit, gain), widths.threshold)
            and fits(integer_leak(bias, step, unit, gain), widths.leak)
        )

    if not everything_fits(1):
        raise OverflowError("even with a gain of 1 a value does not fit its register")
    gain = 1
    while everything_fits(gain + 1):
        gain += 1
    return gain


# Input ---------------------------------------------------------------------------------------------------------------


def normalised(images: Reals, scale: Reals, shift: Reals) -> Reals:
    """image·a + c of every channel, for images [N, C, ...]."""
    sides = [1] * (images.ndim - 2)
    return images * scale.reshape(-1, *sides) + shift.reshape(-1, *sides)


def encoded(images: Reals, unit: float, bits: int) -> Integers:
    """The integer input: images in units, at the ends of the signed range where they leave it."""
    return np.clip(np.rint(images / unit), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)


# Sums ----------------------------------------------------------------------------------------------------------------


def even_sides(padding: Pair) -> Sides:
    """The same on both sides of each axis."""
    return (padding[0], padding[0]), (padding[1], padding[1])


def same_sides(kernel: Pair, dilation: Pair) -> Sides:
    """Padding with which an output is as large as its input; what is odd about it goes below and right."""
    whole = [dilation[axis] * (kernel[axis] - 1) for axis in (0, 1)]
    return (whole[0] // 2, whole[0] - whole[0] // 2), (whole[1] // 2, whole[1] - whole[1] // 2)


def taps(x: Integers, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> dict[Pair, Integers]:
    """For each position in the window, the input [N, C, H', W'] that every window has there; zeros are padded."""
    padded = np.pad(x, ((0, 0), (0, 0), *padding))
    height, width = (
        (padded.shape[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in (0, 1)
    )
    found = {}
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilation[0], column * dilation[1]
            below, right = top + stride[0] * (height - 1) + 1, left + stride[1] * (width - 1) + 1
            found[row, column] = padded[:, :, top : below : stride[0], left : right : stride[1]]
    return found


def convolved(x: Integers, codes: Integers, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> Integers:
    """Σ q·x of a convolution, [N, C, H', W'] for codes [C, inputs per group, height, width]."""
    outputs, inputs, height, width = codes.shape
    per_group = outputs // groups
    total: Integers | None = None
    for (row, column), part in taps(x, (height, width), stride, padding, dilation).items():
        products = [
            np.einsum(
                "oi,nihw->nohw",
                codes[g * per_group : (g + 1) * per_group, :, row, column],
                part[:, g * inputs : (g + 1) * inputs],
            )
            for g in range(groups)
        ]
        joined = np.concatenate(products, axis=1)
        total = joined if total is None else total + joined
    assert total is not None
    return total


def transposed(
    x: Integers, codes: Integers, stride: Pair, padding: Pair, more: Pair, dilation: Pair, groups: int
) -> Integers:
    """What every place adds to those around i·s - p, [N, C, H', W']; `codes` as of a convolution, turned round."""
    outputs, inputs, height, width = codes.shape
    per_group = outputs // groups
    reach = (dilation[0] * (height - 1), dilation[1] * (width - 1))
    size = [
        (x.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + reach[axis] + more[axis] + 1 for axis in (0, 1)
    ]
    found = np.zeros((len(x), outputs, *size), np.int64)
    for output in range(outputs):
        first = output // per_group * inputs
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                for row in range(height):
                    for column in range(width):
                        y = i * stride[0] + row * dilation[0] - padding[0]
                        z = j * stride[1] + column * dilation[1] - padding[1]
                        if 0 <= y < size[0] and 0 <= z < size[1]:
                            tap = codes[output, :, height - 1 - row, width - 1 - column]
                            found[:, output, y, z] += x[:, first : first + inputs, i, j] @ tap
    return found


def turned(weight: Reals, groups: int) -> Reals:
    """The weight of a transposed convolution, [in, out / groups, ...], as [out, in / groups, ...], turned round."""
    inputs, outputs, height, width = weight.shape
    found = np.empty((groups * outputs, inputs // groups, height, width))
    for group in range(groups):
        own = weight[group * (inputs // groups) : (group + 1) * (inputs // groups)]
        for output in range(outputs):
            found[group * outputs + output] = own[:, output, ::-1, ::-1]
    return found


def multiplied(x: Integers, codes: Integers) -> Integers:
    """Σ q·x of a fully connected layer, [N, C]; a map in front of it is flattened."""
    return np.einsum("oi,ni->no", codes, x.reshape(len(x), -1))


def pooled(x: Integers, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Integers:
    """Sum over each window, [N, C, H', W']."""
    return np.stack(list(taps(x, kernel, stride, even_sides(padding), dilation).values())).sum(axis=0)


# Layers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Neurons:
    """The integers of a layer's neurons: m, and θ and β of every channel."""

    gain: int
    theta: Integers
    beta: Integers


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with its ReLU."""

    neurons: Neurons
    codes: Integers
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int

    def sums(self, x: Integers) -> Integers:
        """Σ q·x."""
        return convolved(x, self.codes, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class TransposedConvolution:
    """A transposed convolution with its ReLU; `more` is its output padding."""

    neurons: Neurons
    codes: Integers
    stride: Pair
    padding: Pair
    more: Pair
    dilation: Pair
    groups: int

    def sums(self, x: Integers) -> Integers:
        """Σ q·x."""
        return transposed(x, self.codes, self.stride, self.padding, self.more, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class FullyConnected:
    """A hidden fully connected layer with its ReLU."""

    neurons: Neurons
    codes: Integers

    def sums(self, x: Integers) -> Integers:
        """Σ q·x."""
        return multiplied(x, self.codes)


@dataclass(frozen=True)
class AveragePooling:
    """Average pooling: unit weights, θ the size of the window, β = 0."""

    channels: int
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def neurons(self) -> Neurons:
        """The same for every channel."""
        size = self.kernel[0] * self.kernel[1]
        return Neurons(1, np.full(self.channels, size, np.int64), np.zeros(self.channels, np.int64))

    def sums(self, x: Integers) -> Integers:
        """Sum over each window."""
        return pooled(x, self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class AnyPooling:
    """Max pooling by any neuron of the window: unit weights, θ = 1, β = 0; its reset is to zero."""

    channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @property
    def neurons(self) -> Neurons:
        """The same for every channel."""
        return Neurons(1, np.ones(self.channels, np.int64), np.zeros(self.channels, np.int64))

    def sums(self, x: Integers) -> Integers:
        """Sum over each window."""
        return pooled(x, self.kernel, self.stride, self.padding, self.dilation)


@dataclass(frozen=True, eq=False)
class Sum:
    """Neurons that add up several inputs, each times an integer of every channel, [inputs, C]."""

    neurons: Neurons
    weights: Integers

    def sums(self, *inputs: Integers) -> Integers:
        """Σ m_i·x_i."""
        assert len(inputs) == len(self.weights)
        total = np.zeros_like(inputs[0])
        for weight, x in zip(self.weights, inputs, strict=True):
            assert x.shape == total.shape
            total = total + per_channel(weight, x) * x
        return total


Layer = Convolution | TransposedConvolution | FullyConnected | AveragePooling | AnyPooling | Sum


# What has no neurons -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Synapses:
    """Codes without neurons of their own, and m of every output channel."""

    gain: Integers
    weighted: Callable[[Integers], Integers]

    def given(self, x: Integers) -> Integers:
        """m·Σ q·x, at this step."""
        sums = self.weighted(x)
        return per_channel(self.gain, sums) * sums


@dataclass(frozen=True, eq=False)
class Wiring:
    """Outputs are inputs, or zero."""

    given: Callable[..., Integers]


def concatenated(*inputs: Integers) -> Integers:
    """The channels of all behind one another."""
    return np.concatenate(inputs, axis=1)


def enlarged(x: Integers, down: int, across: int) -> Integers:
    """Every row `down` times, every column `across` times."""
    return np.repeat(np.repeat(x, down, axis=2), across, axis=3)


def tap(x: Integers, place: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Integers:
    """The same place of every window; zeros are padded."""
    return taps(x, kernel, stride, even_sides(padding), (1, 1))[place]


@dataclass(frozen=True, eq=False)
class Node:
    """Something in a graph, and the names of what it reads; "" is the input."""

    name: str
    does: Layer | Synapses | Wiring
    reads: tuple[str, ...]


# Dynamics ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Trace:
    """What one layer did: spikes, and membranes before the reset, both [T, N, C, ...]."""

    spikes: Integers
    membranes: Integers


def per_channel(values: Integers, like: Integers) -> Integers:
    """`values` [C] shaped so that they broadcast over `like` [N, C, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


def simulated(
    layers: Sequence[Layer], current: Integers, *, timesteps: int, reset: Reset, half_start: bool
) -> list[Trace]:
    """Run all layers step by step: the first gets `current` at every step, each other the spikes of its producer."""
    names = ["", *(str(place) for place in range(len(layers)))]
    chain = [Node(name, layer, (read,)) for name, layer, read in zip(names[1:], layers, names, strict=False)]
    found = simulated_graph(chain, current, timesteps=timesteps, reset=reset, half_start=half_start)
    return list(found[1].values())


def simulated_graph(
    nodes: Sequence[Node], current: Integers, *, timesteps: int, reset: Reset, half_start: bool, frames: bool = False
) -> tuple[dict[str, Integers], dict[str, Trace]]:
    """What every node gives, [T, N, C, ...], and what its neurons did, where it has any.

    The graph is run step by step, what is read before what reads it; every step gets `current`, or where that has
    `frames`, [N, T, C, ...], the one of its number.
    """
    given: dict[str, list[Integers]] = {node.name: [] for node in nodes}
    membranes: dict[str, Integers] = {}
    before_reset: dict[str, list[Integers]] = {}
    for step in range(timesteps):
        values = {"": current[:, step] if frames else current}
        for node in nodes:
            inputs = [values[name] for name in node.reads]
            if isinstance(node.does, Synapses | Wiring):
                values[node.name] = node.does.given(*inputs)
            else:
                sums, neurons = node.does.sums(*inputs), node.does.neurons
                theta, beta = (per_channel(integers, sums) for integers in (neurons.theta, neurons.beta))
                start = np.zeros_like(sums) + (theta // 2 if half_start else 0)
                membrane = membranes.get(node.name, start) + neurons.gain * sums + beta
                spikes = (membrane >= theta).astype(np.int64)
                before_reset.setdefault(node.name, []).append(membrane)
                subtracted = reset == "subtraction" and not isinstance(node.does, AnyPooling)
                kept = membrane - spikes * theta if subtracted else membrane * (1 - spikes)
                membranes[node.name], values[node.name] = kept, spikes
            given[node.name].append(values[node.name])
    outputs = {name: np.stack(steps) for name, steps in given.items()}
    return outputs, {name: Trace(outputs[name], np.stack(steps)) for name, steps in before_reset.items()}


def decoded(spikes: Integers, value: Reals) -> Reals:
    """`count / T · s` for spikes [T, N, C, ...] and spike values [C]."""
    counts = spikes.sum(axis=0)
    return counts / len(spikes) * value.reshape(-1, *[1] * (counts.ndim - 2))
