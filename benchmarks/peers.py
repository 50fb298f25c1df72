"""The contenders: ways to get logits from one network, all of which are built from the converted one.

For other simulators, weights are those of the converted network divided by its thresholds, in float32, so that every
neuron has threshold 1. Neurons are reset by subtraction and the image is fed at every step.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.engine.circuit import Circuit, circuit_of
from fxsnn.layers import Decode, SpikeAdd, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking, Synapses, layer_like
from fxsnn.network import SpikingNetwork
from fxsnn.numerics import Dynamics

Simulator = Callable[[Tensor], Tensor]
"""Images to logits [N, classes]."""

LAYOUTS: Mapping[str, torch.memory_format] = MappingProxyType(
    {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
)
"""How maps can lie in memory."""

_COMPILED_STEPS = 4
"""Steps that a compiled network runs in one call: compilation unrolls them, and takes minutes for many."""


@dataclass(frozen=True)
class Contender:
    """A way to get logits.

    Attributes:
        prepare: builds it from the converted network, T and the name of a layout.
        layouts: names of the layouts that are worth a try; whoever measures takes the fastest.
        package: what has to be installed, `None` for nothing.
        cold: its first run in a setting does much that later ones do not, so that its memory says nothing.
    """

    prepare: Callable[[SpikingNetwork, int, str], Simulator]
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    package: str | None = None
    cold: bool = False

    @property
    def installed(self) -> bool:
        """Its package is there."""
        return self.package is None or version(self.package) is not None


def version(package: str) -> str | None:
    """The version of an installed package, `None` if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# Ours and the float network ------------------------------------------------------------------------------------------


def ours(engine: str) -> Contender:
    """The converted network itself, run by an engine of ours."""

    def prepare(snn: SpikingNetwork, timesteps: int, layout: str) -> Simulator:
        own = copy.deepcopy(snn)
        own.timesteps, own.engine = timesteps, engine
        return own

    return Contender(prepare, layouts=("channels first",))


def float_network(model: nn.Module, kind: torch.dtype = torch.float32) -> Contender:
    """One forward pass of the network before it was converted, in that type."""

    def prepare(snn: SpikingNetwork, timesteps: int, layout: str) -> Simulator:
        own = copy.deepcopy(model).to(kind).to(memory_format=LAYOUTS[layout])
        return lambda images: own(images.to(kind, memory_format=LAYOUTS[layout])).float()

    return Contender(prepare)


# Other simulators ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Peer:
    """A network in another simulator, between our encoding of images and our reading of spike counts.

    Attributes:
        circuit: the spiking part of the converted network.
        tail: what lies behind it, called with activations and images.
        timesteps: T.
        layout: how maps lie in memory.
        run: spike counts of the last layer for its prepared input.
    """

    circuit: Circuit
    tail: Callable[[Tensor, Tensor], Tensor]
    timesteps: int
    layout: str
    run: Callable[[Tensor], Tensor]

    def counts(self, images: Tensor) -> Tensor:
        """Spike counts of the last layer, [N, C, ...]."""
        first = next(call for call in self.circuit.calls if not call.images)
        x = self.circuit.of_images(images)[first.inputs[0]]
        return self.run(x.contiguous(memory_format=LAYOUTS[self.layout]) if x.dim() == 4 else x)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        spike_value = self.circuit.decode.spike_value
        decode = Decode(spike_value, spike_value.dtype, Dynamics(self.timesteps))
        return self.tail(decode.value(self.counts(images)), images)


def peer(
    snn: SpikingNetwork,
    timesteps: int,
    layout: str,
    *,
    synapses: Callable[[nn.Module], nn.Module],
    neurons: Callable[[float], nn.Module],
    runner: Callable[[nn.Module], Callable[[Tensor], Tensor]],
) -> Peer:
    """A peer from its parts.

    Args:
        snn: the converted network.
        timesteps: T.
        layout: how maps lie in memory.
        synapses: fits a convolution, a pooling or a fully connected layer to the simulator.
        neurons: the simulator's neurons that start at the given share of the threshold.
        runner: what runs the whole network and counts the spikes of its last layer.
    """
    circuit = circuit_of(snn.graph)
    modules: list[list[nn.Module]] = []
    for number, call in enumerate(circuit.calls[1:], 1):
        module: nn.Module = nn.Identity()
        if isinstance(call.module, SpikeAdd):
            module = Sum(call.module, [isinstance(circuit.calls[one].module, Synapses) for one in call.inputs])
        elif isinstance(call.module, Synapses):
            reader = next(one.module for one in circuit.calls if number in one.inputs)
            assert isinstance(reader, SpikeAdd)
            module = synapses(layer_of(call.module, reader.threshold, None).to(memory_format=LAYOUTS[layout]))
        elif isinstance(call.module, SpikeConv2d | SpikeLinear | SpikeAvgPool2d):
            module = synapses(synapses_of(call.module).to(memory_format=LAYOUTS[layout]))
        elif not isinstance(call.module, nn.Flatten):  # that is part of what reads it
            raise TypeError(f"{call.name}: a {type(call.module).__name__} is not known to the peers")
        spikes = [neurons(start_of(call.module, snn.initial_membrane))] if isinstance(call.module, Spiking) else []
        modules.append([module, *spikes])
    network = Joined(modules, [call.inputs for call in circuit.calls[1:]]).to(circuit.device).eval()
    tail = snn.graph.behind(snn.graph.nodes(Decode)[0])
    return Peer(circuit, tail, timesteps, layout, runner(network))


def synapses_of(layer: Spiking) -> nn.Module:
    """What stands in front of a layer's neurons, in float32, for neurons with threshold 1."""
    if isinstance(layer, SpikeAvgPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    assert isinstance(layer, SpikeConv2d | SpikeLinear)
    return layer_of(layer, layer.threshold, layer.leak)


def layer_of(layer: SpikeConv2d | SpikeLinear | Synapses, threshold: Tensor, leak: Tensor | None) -> nn.Module:
    """A convolution or fully connected layer in float32, its weights and leak divided by thresholds [C]."""
    scale = (layer.gain / threshold.double()).view(-1, *[1] * (layer.codes.dim() - 1))
    plain = layer_like(layer, nn.Conv2d, nn.Linear)
    plain.weight = nn.Parameter((scale * layer.codes).float())
    plain.bias = None if leak is None else nn.Parameter((leak.double() / threshold).float())
    return plain if isinstance(plain, nn.Conv2d) else nn.Sequential(nn.Flatten(), plain)


class Sum(nn.Module):
    """What stands in front of the neurons of a sum, for threshold 1: inputs [..., N, C, H, W] times what each weighs.

    Args:
        layer: the sum.
        synapses: which inputs are drives of synapses, whose weights are divided by the threshold already.
    """

    weights: Tensor
    bias: Tensor

    def __init__(self, layer: SpikeAdd, synapses: Sequence[bool]) -> None:
        super().__init__()
        threshold = layer.threshold.double()
        divided = torch.tensor(synapses, device=threshold.device).view(-1, 1)
        weights = (layer.weights / threshold).where(~divided, 1.0)
        self.register_buffer("weights", weights.float().view(len(weights), -1, 1, 1))
        self.register_buffer("bias", (layer.leak / threshold).float().view(-1, 1, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Their sum."""
        total = self.bias
        for x, weight in zip(inputs, self.weights, strict=True):
            total = total + x * weight
        return total


class Joined(nn.Module):
    """Modules in rows, each of which reads the input, number 0, or what other rows gave, kept up to the last reader."""

    def __init__(self, rows: Sequence[Sequence[nn.Module]], inputs: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(row[0] for row in rows)
        self.rests = nn.ModuleList(nn.Sequential(*row[1:]) for row in rows)
        self.inputs = inputs
        self.last = {one: number for number, reads in enumerate(inputs) for one in reads}

    def forward(self, x: Tensor) -> Tensor:
        """What the last one gives."""
        values = {0: x}
        for number, reads in enumerate(self.inputs):
            given = [values[one] for one in reads]
            for one in reads:
                if self.last[one] == number:
                    values.pop(one, None)
            values[number + 1] = self.rests[number](self.heads[number](*given))
        return values[len(self.inputs)]


def start_of(layer: Spiking, initial_membrane: float) -> float:
    """Where membranes start, as a share of the threshold.

    A quarter of the smallest unit above our start: an integer membrane that meets its threshold exactly is then clearly
    above it in float32 as well, and one that is a unit short is clearly below, however the float sums were rounded.
    """
    return initial_membrane + 0.25 / int(layer.threshold.max())


def spikingjelly_single_step(snn: SpikingNetwork, timesteps: int, layout: str) -> Peer:
    """SpikingJelly in step mode "s": a loop over time around the network."""
    from spikingjelly.activation_based import functional

    def runner(network: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            functional.reset_net(network)
            counts = network(x)
            for _ in range(timesteps - 1):
                counts = counts + network(x)
            return counts

        return run

    return peer(snn, timesteps, layout, synapses=lambda module: module, neurons=_jelly_neurons("s"), runner=runner)


def spikingjelly_multi_step(snn: SpikingNetwork, timesteps: int, layout: str, backend: str = "torch") -> Peer:
    """SpikingJelly in step mode "m": layer by layer on [T, N, ...], its neurons run by PyTorch, CuPy or Triton."""
    from spikingjelly.activation_based import functional, layer

    def runner(network: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            functional.reset_net(network)
            return network(x.expand(timesteps, *x.shape)).sum(0)

        return run

    neurons = _jelly_neurons("m", backend)
    return peer(snn, timesteps, layout, synapses=layer.SeqToANNContainer, neurons=neurons, runner=runner)


def spikingjelly_compiled(snn: SpikingNetwork, timesteps: int, layout: str) -> Peer:
    """SpikingJelly in step mode "m", compiled by PyTorch, a few steps after the other."""
    from spikingjelly.activation_based import functional, layer

    def runner(network: nn.Module) -> Callable[[Tensor], Tensor]:
        torch.compiler.reset()  # another batch size would otherwise be compiled for sizes that vary
        compiled = torch.compile(network, dynamic=False)

        def run(x: Tensor) -> Tensor:
            functional.reset_net(network)
            sequence = x.expand(timesteps, *x.shape)
            return functional.chunk_multi_step_forward(min(_COMPILED_STEPS, timesteps), sequence, compiled).sum(0)

        return run

    return peer(snn, timesteps, layout, synapses=layer.SeqToANNContainer, neurons=_jelly_neurons("m"), runner=runner)


def _jelly_neurons(step_mode: str, backend: str = "torch") -> Callable[[float], nn.Module]:
    from spikingjelly.activation_based import neuron

    def neurons(start: float) -> nn.Module:
        node: Any = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=step_mode)
        node.backend = backend
        node.set_reset_value("v", start)
        return node

    return neurons


def sinabs(snn: SpikingNetwork, timesteps: int, layout: str) -> Peer:
    """sinabs: layer by layer, with time folded into the batch, [N * T, ...]."""
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers import IAFSqueeze

    def neurons(start: float) -> nn.Module:
        layer: Any = IAFSqueeze(num_timesteps=timesteps, spike_fn=SingleSpike, reset_fn=MembraneSubtract())

        def start_anew(module: Any, given: tuple[Tensor]) -> None:
            module.v_mem = given[0].new_full((len(given[0]) // timesteps, *given[0].shape[1:]), start)

        layer.register_forward_pre_hook(start_anew)
        return layer

    def runner(network: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: network(x.repeat_interleave(timesteps, 0)).unflatten(0, (-1, timesteps)).sum(1)

    return peer(snn, timesteps, layout, synapses=lambda module: module, neurons=neurons, runner=runner)


PEERS: Mapping[str, Contender] = MappingProxyType(
    {
        "SpikingJelly, single-step": Contender(spikingjelly_single_step, package="spikingjelly"),
        "SpikingJelly, multi-step": Contender(spikingjelly_multi_step, package="spikingjelly"),
        "sinabs": Contender(sinabs, package="sinabs"),
    }
)
"""Other simulators as their users run them, by the name they have in tables."""

GPU_PEERS: Mapping[str, Contender] = MappingProxyType(
    {
        f"SpikingJelly, {name}": Contender(partial(spikingjelly_multi_step, backend=backend), package="spikingjelly")
        for name, backend in (("CuPy", "cupy"), ("Triton", "triton"))
    }
)
"""Those that run on GPUs alone: SpikingJelly in step mode "m" with neurons of its own kernels."""

COMPILED_PEERS: Mapping[str, Contender] = MappingProxyType(
    {
        "SpikingJelly, compiled": Contender(
            spikingjelly_compiled, layouts=("channels last",), package="spikingjelly", cold=True
        )
    }
)
"""Those that take a minute or more to get going, and a C++ compiler."""
