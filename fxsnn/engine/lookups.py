"""What the CPU engine computes once from a circuit's integers, whatever the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxsnn.engine.circuit import Circuit, Unsupported
from fxsnn.engine.instructions import Amx, InstructionSet
from fxsnn.engine.planes import Pair, Window
from fxsnn.engine.tables import (
    LARGEST_BYTE_SUM,
    LARGEST_SUM,
    ConvolutionTables,
    convolution_tables,
    padded,
    pooling_tables,
)
from fxsnn.engine.tile_codes import TileCodes, pooling_codes
from fxsnn.layers import (
    SpikeAdd,
    SpikeConv2d,
    SpikeLinear,
    SpikePool2d,
    Spiking,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
    pair,
    sides_of,
)

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Term:
    """Spikes that neurons read: a convolution, a pooling, or spikes as they are.

    Attributes:
        source: the call that gives the spikes.
        window: geometry.
        tables: lookups of the weighted sums, or codes to multiply by; `None` for spikes as they are.
        gain: int64 [C], what these are multiplied by.
    """

    source: int
    window: Window
    tables: ConvolutionTables | TileCodes | None
    gain: Array


@dataclass(frozen=True, eq=False)
class Weights:
    """What neurons read.

    Attributes:
        name: of the layer in the user's network.
        layer: the layer.
        terms: of maps of spikes, what they add up.
        of_images: for each input, whether it comes of images alone, and is no spikes.
        codes: of a fully connected layer of spikes, int8 [outputs, inputs].
    """

    name: str
    layer: Spiking
    terms: tuple[Term, ...] = ()
    of_images: tuple[bool, ...] = ()
    codes: Array | None = None

    @property
    def read_images(self) -> bool:
        """Whether a part of what they add up comes of images alone."""
        return any(self.of_images)


def weights_of(circuit: Circuit, how: InstructionSet) -> dict[int, Weights]:
    """What is computed once, for each call of a layer with neurons.

    Args:
        circuit: the circuit.
        how: the instruction set.

    Raises:
        Unsupported: the engine's integers are too narrow for a layer.
    """
    return {
        number: _weights(circuit, number, how)
        for number, call in enumerate(circuit.calls)
        if isinstance(call.module, Spiking)
    }


def _weights(circuit: Circuit, number: int, how: InstructionSet) -> Weights:
    call = circuit.calls[number]
    layer: Any = call.module
    of_images = tuple(read.images for read in circuit.given(number))
    if all(of_images):
        return Weights(call.name, layer, of_images=of_images)
    if isinstance(layer, SpikeLinear):
        return Weights(call.name, layer, codes=layer.codes.numpy())
    if not isinstance(layer, SpikeAdd):
        gain = np.full(len(layer.threshold), layer.gain, np.int64)
        return Weights(call.name, layer, (_term(call.name, layer, call.inputs[0], gain, how),))
    if layer.input_magnitude is None:
        raise Unsupported(f"{call.name} adds up spikes and images that are not rounded")
    terms = []
    for one, own in zip(call.inputs, layer.weights.numpy().astype(np.int64), strict=True):
        read = circuit.calls[one]
        if read.images:
            continue
        if isinstance(read.module, Synapses):
            gain = own * read.module.gain.numpy()
            terms.append(_term(read.name, read.module, read.inputs[0], gain, how))
        else:
            plain = _pooling(len(own), (1, 1), how) if isinstance(how, Amx) else None
            terms.append(Term(one, Window((1, 1)), plain, own))
    if terms and all(term.tables is None for term in terms):  # an operation has one convolution at least
        terms[0] = replace(terms[0], tables=_pooling(len(terms[0].gain), (1, 1), how))
    return Weights(call.name, layer, tuple(terms), of_images)


def _term(name: str, layer: Any, source: int, gain: Array, how: InstructionSet) -> Term:
    """The weighted sums of a layer with weights, or of a pooling.

    Raises:
        Unsupported: the engine's integers are too narrow.
    """
    if not isinstance(how, Amx) and layer.largest_sum > LARGEST_SUM:
        raise Unsupported(f"the weights of {name} have magnitudes that add up to {layer.largest_sum}")
    if isinstance(layer, SpikePool2d):
        return Term(source, window_of(layer), _pooling(len(layer.threshold), layer.window(), how), gain)
    assert isinstance(layer, SpikeConv2d | SynapseConv2d | SynapseLinear)
    if isinstance(layer, SynapseLinear):  # features are maps of one place
        codes, groups, window = layer.codes.numpy()[..., None, None], 1, Window((1, 1))
    else:
        codes, groups, window = layer.codes.numpy(), layer.groups, window_of(layer)
    if isinstance(how, Amx):
        return Term(source, window, TileCodes(codes, groups), gain)
    if how.per_byte * int(layer.codes.abs().max()) > LARGEST_BYTE_SUM:
        raise Unsupported(f"a weight of {name} is larger than {LARGEST_BYTE_SUM // how.per_byte}")
    return Term(source, window, convolution_tables(codes, groups, how.per_byte), gain)


def _pooling(channels: int, window: Pair, how: InstructionSet) -> ConvolutionTables | TileCodes:
    """The sum over a window in each channel by itself."""
    return pooling_codes(channels, window) if isinstance(how, Amx) else pooling_tables(channels, window, how.per_byte)


def window_of(layer: SpikeConv2d | SynapseConv2d | SpikePool2d) -> Window:
    """The geometry of a convolution or a pooling."""
    if isinstance(layer, SpikePool2d):
        down, across = layer.windows()
        stride, dilation = (down.stride, across.stride), (down.dilation, across.dilation)
        padding = (down.padding, across.padding)
        return Window(layer.window(), stride, padding, padding, dilation, down.ceil)
    kernel, stride, dilation = (pair(value) for value in (layer.kernel_size, layer.stride, layer.dilation))
    top, bottom, left, right = sides_of(layer)
    return Window(kernel, stride, (top, left), (bottom, right), dilation)


def membrane_type(layer: Spiking) -> np.dtype[Any]:
    """In which type membranes, drive and thresholds are exact."""
    if layer.input_magnitude is None:
        return np.dtype(np.float64)
    return np.dtype(np.int64 if layer.membrane_type() == torch.int64 else np.int32)


def neurons_of(layer: Spiking, per_byte: int, gain: Array | int, offset: Array | int = 0) -> Array:
    """Gain, leak and threshold of each neuron's channel, [channels, 3], channels filled up to whole groups.

    Args:
        layer: the layer.
        per_byte: channels of a group.
        gain: of each channel, [channels], or of all.
        offset: added to the leak of each channel, the channels that fill up groups included.
    """
    kind = membrane_type(layer)
    columns = [
        padded(np.full(len(layer.threshold), gain, kind), 0, per_byte),
        padded(leak_of(layer).astype(kind), 0, per_byte) + np.asarray(offset, kind),
        padded(layer.threshold.numpy().astype(kind), _never(kind), per_byte),
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))


def leak_of(layer: Spiking) -> Array:
    """What a layer adds at every step beside what it reads, [channels]: nothing, where `part_of_images` has it."""
    leak: Array = layer.leak.numpy()
    return np.zeros_like(leak) if isinstance(layer, SpikeAdd) and layer.input_magnitude is None else leak


def _never(kind: np.dtype[Any]) -> float:
    """A threshold for neurons that only fill up a group."""
    return float(np.finfo(kind).max) if kind.kind == "f" else int(np.iinfo(kind).max)


def part_of_images(weights: Weights, given: list[Tensor]) -> Tensor | None:
    """What images add; `None` where a layer reads nothing that comes of them alone.

    It is without the leak, but for sums in floating point, whose last bits are those of the order of `SpikeAdd`.

    Args:
        weights: of the layer.
        given: what comes of images of what it reads, [N, ...], in the order of its arguments.

    Returns:
        [N, C, ...]: of `SpikeAdd` what it adds, else sums without the gain.
    """
    layer = weights.layer
    if not weights.read_images:
        return None
    if not isinstance(layer, SpikeAdd):
        (x,) = given
        sums = layer.sums(x)
        return sums if layer.input_magnitude is None else sums.round()  # as in `Spiking.drive`
    kind = torch.float64 if layer.input_magnitude is None else layer.membrane_type()
    view = (-1, *[1] * (given[0].dim() - 2))
    own = [weight for weight, images in zip(layer.weights, weights.of_images, strict=True) if images]
    return sum(
        (x.to(kind) * weight.view(view).to(kind) for x, weight in zip(given, own, strict=True)),
        layer.leak.view(view).to(kind) if layer.input_magnitude is None else torch.zeros((), dtype=kind),
    )
