"""A spiking network as engines see it: encode, one layer after the other, decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from fxsnn.errors import FxsnnError
from fxsnn.graph import Graph
from fxsnn.layers import Decode, Encode, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking

Range = tuple[float, float]

_HOOKS_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks")
"""Where PyTorch keeps hooks on all modules. There is no public way to ask; a version without these names counts as
watched, so that no hook is passed over."""


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
class Chain:
    """The spiking part of a network.

    Attributes:
        encode: what makes the input of the first layer.
        prepare: what stands between that and the first layer: nothing, or a flatten.
        layers: the spiking layers in order, with their names in the user's network. Where a fully connected one reads
            maps, they are flattened.
        decode: what reads the last layer.
        flattens: the modules that do so where maps are spikes; engines leave them out.
    """

    encode: Encode
    prepare: tuple[nn.Module, ...]
    layers: tuple[tuple[str, Spiking], ...]
    decode: Decode
    flattens: tuple[nn.Module, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the layers are."""
        return self.layers[0][1].threshold.device

    def prepared(self, images: Tensor) -> Tensor:
        """The input of the first layer, the same at every step, [N, ...]."""
        x = self.encode(images)
        for module in self.prepare:
            x = module(x)
        return x


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
    """Runs a chain; whatever the engine, the spikes are the same."""

    name: str
    images_at_once: int
    """How many images it is given best in one call."""

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """Spike counts of the last layer.

        Args:
            images: [N, C, H, W], N at least 1.
            every_step: give the counts after each step.
            recording: filled with what all layers did.

        Returns:
            int32 [N, C, ...], or [T, N, C, ...].
        """


def chain_of(graph: Graph) -> Chain:
    """The chain of a converted graph.

    Raises:
        Unsupported: the graph is no chain of known layers.
    """
    encodes = graph.nodes(Encode)
    if len(encodes) != 1:
        raise Unsupported(f"the network has {len(encodes)} encoders; one is needed")
    node = encodes[0]
    encode = graph[node]
    assert isinstance(encode, Encode)
    prepare: list[nn.Module] = []
    flattens: list[nn.Module] = []
    layers: list[tuple[str, Spiking]] = []
    while True:
        behind = graph.sole_user(node)
        if behind is None or behind.op != "call_module" or len(behind.all_input_nodes) != 1:
            raise Unsupported(f"what {graph.name(node)} feeds is not a single layer")
        node, module = behind, graph[behind]
        if isinstance(module, Decode):
            break
        if type(module) in (SpikeConv2d, SpikeLinear, SpikeAvgPool2d) and graph.spikes(node):
            assert isinstance(module, Spiking)
            layers.append((graph.name(node), module))
        elif type(module) is not nn.Flatten:
            raise Unsupported(f"{graph.name(node)} is a {type(module).__name__}")
        else:
            (flattens if layers else prepare).append(module)
    if not layers or not layers[0][1].constant_input:
        raise Unsupported("the first layer does not read the images")
    return Chain(encode, tuple(prepare), tuple(layers), module, tuple(flattens))


def watched(chain: Chain) -> bool:
    """Whether somebody hung a hook on a layer, or on all modules: only a run in PyTorch calls it.

    Those of backward passes do not count: spikes have no gradient, so that PyTorch never calls them here.
    """
    if any(getattr(nn.modules.module, name, True) for name in _HOOKS_OF_ALL):
        return True
    modules = [chain.encode, chain.decode, *chain.prepare, *chain.flattens, *(layer for _, layer in chain.layers)]
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Tells whether the tensors of a chain are still the same: an engine has copied what is in them.

    Attributes:
        tensors: the tensors.
        states: the version of each; a copy of those made in inference mode, which have none.
    """

    tensors: tuple[Tensor, ...]
    states: tuple[int | Tensor, ...]

    def holds(self, chain: Chain) -> bool:
        """No tensor was replaced or written into."""
        tensors = _tensors(chain)
        return len(tensors) == len(self.tensors) and all(
            now is then and (torch.equal(now, state) if isinstance(state, Tensor) else now._version == state)
            for now, then, state in zip(tensors, self.tensors, self.states, strict=True)
        )


def fingerprint(chain: Chain) -> Fingerprint:
    """The present state of a chain's tensors."""
    tensors = _tensors(chain)
    return Fingerprint(
        tensors, tuple(tensor.clone() if tensor.is_inference() else tensor._version for tensor in tensors)
    )


def _tensors(chain: Chain) -> tuple[Tensor, ...]:
    return tuple(buffer for _, layer in chain.layers for buffer in layer._buffers.values() if buffer is not None)
