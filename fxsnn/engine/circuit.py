"""A spiking network as engines see it: encode, calls of layers each of which says what it reads, decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import FxsnnError
from fxsnn.graph import Graph
from fxsnn.layers import (
    Decode,
    Encode,
    Integers,
    SpikeAdd,
    SpikeAnyPool2d,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    Spiking,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
    Wiring,
)

Range = tuple[float, float]

_HOOKS_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks")
"""Where PyTorch keeps hooks on all modules. There is no public way to ask; a version without these names counts as
watched, so that no hook is passed over."""
_KNOWN = (SpikeConv2d, SpikeLinear, SpikeAvgPool2d, SpikeAnyPool2d, SpikeAdd, SynapseConv2d, SynapseLinear)


class Unsupported(FxsnnError):  # noqa: N818  # not an error of the user's
    """An engine cannot run a network, or not on this machine; the message says why."""


class Broken(Unsupported):
    """An engine ought to run here, but what it is built on fails; the message says how."""


@contextmanager
def relying_on(library: str) -> Iterator[None]:
    """Around what a library of compilers may fail at: its import, compiling, what it keeps on disk.

    Raises:
        Broken: instead of whatever that raised; not of memory that is full, which PyTorch needs no less of.
    """
    try:
        yield
    except (FxsnnError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise Broken(f"{library} fails here ({type(error).__name__}: {reason})") from error


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        name: of the layer in the user's network.
        module: an encoder, a layer with neurons, one that adds up for others (`Synapses`), wiring, or a flatten.
        inputs: the calls whose values it reads, in the order of its arguments.
        images: its value comes of the images alone, and is no spikes: PyTorch computes it. It is the same at every
            step, without a time axis, unless there are frames.
    """

    name: str
    module: nn.Module
    inputs: tuple[int, ...]
    images: bool


@dataclass(frozen=True)
class Circuit:
    """The spiking part of a network: a graph without circles.

    Attributes:
        calls: each behind all that it reads; the first is the encoder, the last is what `decode` reads.
        decode: counts the spikes of the last call.
    """

    calls: tuple[Call, ...]
    decode: Decode

    @property
    def encode(self) -> Encode:
        """What makes the input of the first layers."""
        encode = self.calls[0].module
        assert isinstance(encode, Encode)
        return encode

    @property
    def frames(self) -> bool:
        """Whether images change over time."""
        return self.encode.form.frames is not None

    @property
    def device(self) -> torch.device:
        """Where the layers are."""
        return self.layers[0][1].threshold.device

    @property
    def layers(self) -> tuple[tuple[str, Spiking], ...]:
        """The layers with neurons in the order in which they run, with their names in the user's network."""
        return tuple((call.name, call.module) for call in self.calls if isinstance(call.module, Spiking))

    def given(self, number: int) -> tuple[Call, ...]:
        """What a call reads."""
        return tuple(self.calls[one] for one in self.calls[number].inputs)

    def is_driven(self, number: int) -> bool:
        """Whether a call is a layer with neurons that reads nothing but what comes of images alone."""
        call = self.calls[number]
        return isinstance(call.module, Spiking) and all(one.images for one in self.given(number))

    @property
    def last_readers(self) -> tuple[int, ...]:
        """For each call the last one that reads it; behind that, its value is not needed. Of the last call itself."""
        found = list(range(len(self.calls)))
        for number, call in enumerate(self.calls):
            for one in call.inputs:
                found[one] = number
        return tuple(found)

    def of_images(self, images: Tensor) -> dict[int, Tensor]:
        """Values that come of images alone, [N, ...], or [T * N, ...] of frames, by the number of their call."""
        values: dict[int, Tensor] = {}
        for number, call in enumerate(self.calls):
            if call.images:
                values[number] = call.module(*(values[one] for one in call.inputs)) if number else self.encode(images)
        return values


@dataclass
class Recording:
    """What happened inside a run, filled in by an engine. Layers go by their names in the user's network.

    Attributes:
        everything: spikes and ranges are wanted too, not only counts.
        counts: how often each neuron spiked, int32 [N, C, ...].
        spikes: 0 and 1, uint8 [T, N, C, ...].
        ranges: the smallest and the largest value any membrane had before a reset.
    """

    everything: bool = True
    counts: dict[str, Tensor] = field(default_factory=dict)
    spikes: dict[str, Tensor] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)


class Engine(Protocol):
    """Runs a circuit; whatever the engine, the spikes are the same."""

    name: str
    images_at_once: int
    """How many images it is given best in one call."""

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """Spike counts of what is decoded.

        Args:
            images: [N, C, H, W], N at least 1.
            every_step: give the counts after each step.
            recording: filled with what all layers did.

        Returns:
            int32 [N, C, ...], or [T, N, C, ...].
        """


def circuit_of(graph: Graph) -> Circuit:
    """The circuit of a converted graph.

    Raises:
        Unsupported: it has layers that engines do not know, or they are put together in a way that engines do not know.
    """
    encodes, decodes = graph.nodes(Encode), graph.nodes(Decode)
    if len(encodes) != 1 or len(decodes) != 1:
        raise Unsupported(f"the network has {len(encodes)} encoders and {len(decodes)} decoders; one of each is needed")
    wanted = graph.ancestors(decodes[0]) - graph.ancestors(encodes[0])
    numbers: dict[Node, int] = {}
    calls: list[Call] = []
    for node in (node for node in graph if node in wanted):
        if any(reader not in wanted and reader is not decodes[0] for reader in node.users):
            raise Unsupported(f"{graph.name(node)} is read by more than layers that spike")
        if node.op != "call_module":
            raise Unsupported(f"{graph.name(node)} is no layer")
        inputs = () if node is encodes[0] else tuple(numbers[one] for one in node.args if isinstance(one, Node))
        call = _call(graph.name(node), graph[node], inputs, calls)
        numbers[node] = len(calls)
        calls.append(call)
    decode = graph[decodes[0]]
    assert isinstance(decode, Decode)
    if not any(isinstance(call.module, Spiking) for call in calls) or calls[-1].images:
        raise Unsupported("nothing spikes in front of the decoder")
    return Circuit(tuple(calls), decode)


def _call(name: str, module: nn.Module, inputs: tuple[int, ...], before: list[Call]) -> Call:
    """A call of what engines know.

    Raises:
        Unsupported: they do not.
    """
    given = [before[one] for one in inputs]
    images = tuple(one.images for one in given)
    frames = bool(before) and isinstance(before[0].module, Encode) and before[0].module.form.frames is not None
    if any(isinstance(one.module, Synapses) for one in given) and not isinstance(module, SpikeAdd):
        raise Unsupported(f"{name} reads sums that are no spikes")
    if isinstance(module, Encode):
        return Call(name, module, (), images=True)
    if isinstance(module, Wiring) or type(module) is nn.Flatten:
        if len(set(images)) != 1:
            raise Unsupported(f"{name} reads images and spikes")
        return Call(name, module, inputs, images=all(images))
    if type(module) not in _KNOWN:
        raise Unsupported(f"{name} is a {type(module).__name__}")
    assert isinstance(module, Integers)
    if module.dynamics is None:
        raise Unsupported(f"{name} has not been converted")
    expected = module.constant if isinstance(module, SpikeAdd) else (module.constant_input,)
    if tuple(one and not frames for one in images) != expected:
        raise Unsupported(f"{name} does not read what it was converted for: images where it had spikes, or spikes")
    return Call(name, module, inputs, images=isinstance(module, Synapses) and images[0])


def watched(circuit: Circuit) -> bool:
    """Whether somebody hung a hook on a layer, or on all modules: only a run in PyTorch calls it.

    Those of backward passes do not count: spikes have no gradient, so that PyTorch never calls them here.
    """
    if any(getattr(nn.modules.module, name, True) for name in _HOOKS_OF_ALL):
        return True
    modules = [circuit.decode, *(call.module for call in circuit.calls)]
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Tells whether the tensors of a circuit are still the same: an engine has copied what is in them.

    Attributes:
        tensors: the tensors.
        states: the version of each; a copy of those made in inference mode, which have none.
    """

    tensors: tuple[Tensor, ...]
    states: tuple[int | Tensor, ...]

    def holds(self, circuit: Circuit) -> bool:
        """No tensor was replaced or written into."""
        tensors = _tensors(circuit)
        return len(tensors) == len(self.tensors) and all(
            now is then and (torch.equal(now, state) if isinstance(state, Tensor) else now._version == state)
            for now, then, state in zip(tensors, self.tensors, self.states, strict=True)
        )


def fingerprint(circuit: Circuit) -> Fingerprint:
    """The present state of a circuit's tensors."""
    tensors = _tensors(circuit)
    return Fingerprint(
        tensors, tuple(tensor.clone() if tensor.is_inference() else tensor._version for tensor in tensors)
    )


def _tensors(circuit: Circuit) -> tuple[Tensor, ...]:
    return tuple(buffer for call in circuit.calls for buffer in call.module._buffers.values() if buffer is not None)
