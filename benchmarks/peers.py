"""A converted network, rebuilt for the simulators that people would use otherwise.

Each function takes the converted network and gives a callable: images in, logits out. Weights are those of the
converted network divided by its thresholds, in float32, so that every neuron has threshold 1; membranes start at one
half and are reset by subtraction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fxsnn.engine.chain import Chain, chain_of
from fxsnn.layers import Decode, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking, conv_like, linear_like
from fxsnn.network import SpikingNetwork

Simulator = Callable[[Tensor], Tensor]


def synapses(layer: Spiking) -> nn.Module:
    """What stands in front of a layer's neurons, in float32, for neurons with threshold 1."""
    if isinstance(layer, SpikeAvgPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    assert isinstance(layer, SpikeConv2d | SpikeLinear)
    threshold = layer.threshold.double()
    weight = layer.gain * layer.codes.double() / threshold.view(-1, *[1] * (layer.codes.dim() - 1))
    plain = conv_like(nn.Conv2d, layer) if isinstance(layer, SpikeConv2d) else linear_like(nn.Linear, layer)
    plain.weight = nn.Parameter(weight.float())
    plain.bias = nn.Parameter((layer.leak.double() / threshold).float())
    return plain if isinstance(plain, nn.Conv2d) else nn.Sequential(nn.Flatten(), plain)


def _parts(snn: SpikingNetwork) -> tuple[Chain, Callable[[Tensor, Tensor], Tensor]]:
    graph = snn.graph
    return chain_of(graph), graph.behind(graph.nodes(Decode)[0])


def _logits(chain: Chain, tail: Callable[[Tensor, Tensor], Tensor], counts: Tensor, images: Tensor) -> Tensor:
    return tail(chain.decode.value(counts), images)


def spikingjelly_single_step(snn: SpikingNetwork) -> Simulator:
    """SpikingJelly in its step mode "s": a loop over time outside the network."""
    from spikingjelly.activation_based import functional

    chain, tail = _parts(snn)
    network = nn.Sequential(*[nn.Sequential(synapses(layer), _jelly_neuron("s")) for _, layer in chain.layers]).eval()
    timesteps = snn.timesteps

    def run(images: Tensor) -> Tensor:
        functional.reset_net(network)
        x = chain.prepared(images)
        counts = network(x)
        for _ in range(timesteps - 1):
            counts = counts + network(x)
        return _logits(chain, tail, counts, images)

    return run


def spikingjelly_multi_step(snn: SpikingNetwork) -> Simulator:
    """SpikingJelly in its step mode "m": layer by layer on [T, N, ...]."""
    from spikingjelly.activation_based import functional, layer

    chain, tail = _parts(snn)
    network = nn.Sequential(
        *[nn.Sequential(layer.SeqToANNContainer(synapses(one)), _jelly_neuron("m")) for _, one in chain.layers]
    ).eval()
    timesteps = snn.timesteps

    def run(images: Tensor) -> Tensor:
        functional.reset_net(network)
        x = chain.prepared(images)
        spikes = network(x.expand(timesteps, *x.shape))
        return _logits(chain, tail, spikes.sum(0), images)

    return run


def _jelly_neuron(step_mode: str) -> nn.Module:
    from spikingjelly.activation_based import neuron

    node: Any = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=step_mode)
    node.set_reset_value("v", 0.5)
    return node


class _SinabsNeurons(nn.Module):
    """sinabs' integrate-and-fire neurons on [N, T, ...], started at one half at every call."""

    def __init__(self) -> None:
        super().__init__()
        from sinabs.activation import MembraneSubtract, SingleSpike
        from sinabs.layers import IAF

        self.neurons = IAF(spike_fn=SingleSpike, reset_fn=MembraneSubtract())

    def forward(self, x: Tensor) -> Any:
        self.neurons.init_state_with_shape((x.shape[0], *x.shape[2:]), randomize=False)
        self.neurons.v_mem.fill_(0.5)
        return self.neurons(x)


def sinabs(snn: SpikingNetwork) -> Simulator:
    """sinabs: layer by layer on [N, T, ...]."""
    from sinabs.layers import Repeat

    chain, tail = _parts(snn)
    network = nn.Sequential(
        *[nn.Sequential(Repeat(synapses(layer)), _SinabsNeurons()) for _, layer in chain.layers]
    ).eval()
    network.to(chain.device)
    timesteps = snn.timesteps

    def run(images: Tensor) -> Tensor:
        x = chain.prepared(images)
        spikes = network(x.unsqueeze(1).expand(-1, timesteps, *[-1] * (x.dim() - 1)))
        return _logits(chain, tail, spikes.sum(1), images)

    return run


PEERS: dict[str, tuple[str, Callable[[SpikingNetwork], Simulator]]] = {
    "SpikingJelly, single-step": ("spikingjelly", spikingjelly_single_step),
    "SpikingJelly, multi-step": ("spikingjelly", spikingjelly_multi_step),
    "sinabs": ("sinabs", sinabs),
}
"""Name in tables: the package it needs, and what builds it."""
