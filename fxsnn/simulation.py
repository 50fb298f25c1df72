"""What runs a spiking network: PyTorch, node by node, which is the reference; or an engine, and PyTorch behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import Node

from fxsnn.engine import engine_for
from fxsnn.engine.chain import Chain, Engine, Fingerprint, Recording, fingerprint
from fxsnn.errors import DataError
from fxsnn.graph import Graph, Interpreter
from fxsnn.layers import Decode, SpikeLinear, Spiking, check_images

FRAMES_AT_ONCE = 256
"""Images times steps that PyTorch runs together: few, whose spikes stay in the cache, are faster than a whole batch."""
_COUNTS_AT_ONCE = 1 << 12
"""Images times steps of which the last layer's counts are kept together."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one simulation showed. Layers go by their names in the user's network.

    Attributes:
        logits: [T, N, classes]; row t is what a run of t + 1 steps gives.
        spikes: per layer, 0 and 1, [T, N, C, ...].
        membrane_range: per layer, the smallest and the largest value any membrane had before a reset.
        membranes: per layer, membranes before the reset, [T, N, C, ...]; empty unless they were asked for.
    """

    logits: Tensor
    spikes: dict[str, Tensor]
    membrane_range: dict[str, tuple[float, float]]
    membranes: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        steps, images = self.logits.shape[:2]
        layers = ", ".join(f"{name} {rate:.3f}" for name, rate in self.firing_rates.items())
        return f"Run of {images} image{'s' if images != 1 else ''} for T={steps}; firing rates: {layers or 'none kept'}"

    @property
    def spike_counts(self) -> dict[str, Tensor]:
        """Per layer, how often each neuron spiked, [N, C, ...]."""
        return {name: spikes.sum(0) for name, spikes in self.spikes.items()}

    @property
    def firing_rates(self) -> dict[str, float]:
        """Per layer, spikes per neuron and step, averaged over all neurons and images."""
        return {name: float(spikes.mean()) for name, spikes in self.spikes.items()}


def simulated(graph: Graph, images: Tensor, timesteps: int, *, membranes: bool = False) -> Run:
    """Run a spiking graph in PyTorch and look inside: what every engine has to give.

    Args:
        graph: the program.
        images: [N, C, H, W].
        timesteps: T, as its layers have it.
        membranes: keep every membrane at every step.

    Raises:
        DataError: these cannot be images for the network.
    """
    check_images(images, graph.input_channels)
    if len(images) == 0:
        raise DataError("there are no images to look at")
    watch = _Watch(graph, keep=("spikes", "membranes") if membranes else ("spikes",))
    return Run(watch.logits(images, timesteps), watch.spikes, watch.ranges, watch.membranes())


def logits_after_each_step(graph: Graph, images: Tensor, timesteps: int) -> Tensor:
    """Logits [T, N, classes] of a spiking graph in PyTorch, a few images at a time.

    Raises:
        DataError: these cannot be images for the network.
    """
    check_images(images, graph.input_channels)
    parts = images.split(max(1, FRAMES_AT_ONCE // timesteps))
    return torch.cat([_Watch(graph, keep=()).logits(part, timesteps) for part in parts], dim=1)


@dataclass(frozen=True, eq=False)
class Compiled:
    """An engine and what belongs to it.

    Attributes:
        chain: the spiking part.
        engine: what runs it.
        tail: run on activations and images.
        program: of the graph, as `_program_of` tells it.
        fingerprint: of the tensors that the engine has copied.
    """

    chain: Chain
    engine: Engine | None
    tail: fx.GraphModule
    program: tuple[Any, ...]
    fingerprint: Fingerprint

    def is_of(self, graph: Graph) -> bool:
        """Whether the graph still calls the same modules in the same way, and tensors are what the engine copied."""
        return _program_of(graph) == self.program and self.fingerprint.holds(self.chain)

    def logits(self, images: Tensor) -> Tensor:
        """[N, classes]."""
        return torch.cat([self._logits(part) for part in self._parts(images)])

    def logits_after_each_step(self, images: Tensor) -> Tensor:
        """[T, N, classes]."""
        parts = self._parts(images, _COUNTS_AT_ONCE // self.chain.decode.dynamics.timesteps)
        return torch.cat([self._logits_after_each_step(part) for part in parts], dim=1)

    def simulated(self, images: Tensor) -> Run:
        """As the function `simulated`."""
        check_images(images, self.chain.encode.channels)
        recording = Recording()
        logits = self._logits_after_each_step(images, recording)
        spikes = {name: spikes.float() for name, spikes in recording.spikes.items()}
        return Run(logits, spikes, recording.ranges)

    def spike_counts(self, images: Tensor) -> dict[str, Tensor]:
        """Per layer, how often each neuron spikes, int32 [N, C, ...]."""
        assert self.engine is not None
        recordings = []
        for part in self._parts(images):
            recordings.append(Recording(everything=False))
            self.engine.counts(part, recording=recordings[-1])
        return {name: torch.cat([one.counts[name] for one in recordings]) for name in recordings[0].counts}

    def wrong_layers(self, images: Tensor) -> list[str]:
        """Names of the layers whose spikes are not those that PyTorch makes of the same layers, in order."""
        assert self.engine is not None
        check_images(images, self.chain.encode.channels)
        recording, wrong = Recording(), []
        self.engine.counts(images, recording=recording)
        x = self.chain.prepared(images)
        for name, layer in self.chain.layers:
            x = layer(x.flatten(1) if isinstance(layer, SpikeLinear) else x)
            found = recording.spikes[name].flatten(0, 1)
            if not torch.equal(found.to(x.dtype), x):
                wrong.append(name)
        return wrong

    def _parts(self, images: Tensor, most: int = 1 << 31) -> Sequence[Tensor]:
        """As many images at a time as the engine likes, or fewer."""
        assert self.engine is not None
        check_images(images, self.chain.encode.channels)
        parts: Sequence[Tensor] = images.split(max(1, min(self.engine.images_at_once, most)))
        return parts

    def _logits(self, images: Tensor) -> Tensor:
        assert self.engine is not None
        with torch.no_grad():
            counts = self.engine.counts(images)
        logits: Tensor = self.tail.forward(self.chain.decode.value(counts), images)
        return logits

    def _logits_after_each_step(self, images: Tensor, recording: Recording | None = None) -> Tensor:
        assert self.engine is not None
        counts = self.engine.counts(images, every_step=True, recording=recording)
        if any(node.users for node in self.tail.graph.find_nodes(op="placeholder", target="images")):
            images = _at_every_step(images, len(counts))
        logits: Tensor = self.tail.forward(self.chain.decode.values_after_each_step(counts), images)
        return logits.unflatten(0, (len(counts), -1))


def compiled(graph: Graph, chain: Chain, engine: str) -> Compiled:
    """The engine of that name for a network.

    Raises:
        OptionError: it was asked for by name, and cannot run here.
    """
    tail = graph.behind(next(iter(graph.nodes(Decode))))
    return Compiled(chain, engine_for(engine, chain), tail, _program_of(graph), fingerprint(chain))


def _program_of(graph: Graph) -> tuple[Any, ...]:
    """All calls of a graph: what is called, with what, and the very modules; users may put others in their places."""
    modules = graph.module
    return tuple(
        (node, node.target, node.args, node.kwargs, modules.get_submodule(str(node.target)))
        if node.op == "call_module"
        else (node, node.target, node.args, node.kwargs)
        for node in modules.graph.nodes
    )


def _at_every_step(images: Tensor, steps: int) -> Tensor:
    """Images [T * N, ...], as a tail sees them that runs on activations after each step."""
    return images.repeat(steps, *[1] * (images.dim() - 1))


class _Watch(Interpreter):
    """Runs a spiking graph and keeps what its layers do; the tail runs on the counts after every step."""

    def __init__(self, graph: Graph, *, keep: Sequence[str]) -> None:
        super().__init__(graph.module)
        self._named = {node: graph.name(node) for node in graph}
        self._keep = keep
        self.spikes: dict[str, Tensor] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._steps: dict[str, list[Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if not isinstance(module, Spiking | Decode):
            return super().run_node(n)
        (given,) = self.fetch_args_kwargs_from_env(n)[0]
        if isinstance(module, Decode):
            for read in [one for one in self.env if one.op == "placeholder"]:  # the tail reads the images, too
                self.env[read] = _at_every_step(self.env[read], module.dynamics.timesteps)
            return module.after_each_step(given)
        if not self._keep:
            return module(given)
        name = self._named[n]
        lows, highs, steps = [], [], self._steps.setdefault(name, [])

        def record(membrane: Tensor) -> None:
            lows.append(membrane.amin())
            highs.append(membrane.amax())
            if "membranes" in self._keep:
                steps.append(membrane.clone())

        spikes = module.fire(given, record)
        self.ranges[name] = (torch.stack(lows).min().item(), torch.stack(highs).max().item())
        assert module.dynamics is not None
        self.spikes[name] = spikes.unflatten(0, (module.dynamics.timesteps, -1))
        return spikes

    def logits(self, images: Tensor, timesteps: int) -> Tensor:
        """Run; logits after each step, [T, N, classes]."""
        logits: Tensor = self.run(images)
        return logits.unflatten(0, (timesteps, -1))

    def membranes(self) -> dict[str, Tensor]:
        """Membranes per layer, [T, N, C, ...]."""
        return {name: torch.stack(steps) for name, steps in self._steps.items() if steps}
