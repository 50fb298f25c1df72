"""What runs a spiking network: PyTorch, node by node, which is the reference; or an engine, and PyTorch behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import Node

from fxsnn.engine import engine_for
from fxsnn.engine.circuit import Circuit, Engine, Fingerprint, Recording, fingerprint
from fxsnn.errors import DataError
from fxsnn.graph import Graph, Interpreter
from fxsnn.layers import Decode, Spiking, check_images
from fxsnn.outputs import joined, tensors_in
from fxsnn.readout import outputs_after_each_step, outputs_of, parts_of

FRAMES_AT_ONCE = 256
"""Images times steps that PyTorch runs together: few, whose spikes stay in the cache, are faster than a whole batch."""
_COUNTS_AT_ONCE = 1 << 12
"""Images times steps of which the last layer's counts are kept together."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one simulation showed. Layers go by their names in the user's network.

    Attributes:
        logits: [T, N, classes]; row t is what a run of t + 1 steps gives. Of a network that returns several tensors,
            the structure in which it returns them.
        spikes: per layer, 0 and 1, [T, N, C, ...].
        membrane_range: per layer, the smallest and the largest value any membrane had before a reset.
        membranes: per layer, membranes before the reset, [T, N, C, ...]; empty unless they were asked for.
    """

    logits: Any
    spikes: dict[str, Tensor]
    membrane_range: dict[str, tuple[float, float]]
    membranes: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        steps, images = [*tensors_in(self.logits), *self.spikes.values()][0].shape[:2]
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


def logits_of(graph: Graph, images: Tensor, timesteps: int) -> Any:
    """What a spiking graph returns in PyTorch: its layers run on a few images at a time, the tail on all of them.

    Args:
        graph: the program.
        images: [N, C, H, W].
        timesteps: T, as its layers have it.
    """
    chunk = max(1, FRAMES_AT_ONCE // timesteps)
    if len(images) <= chunk:
        return graph.run(images)
    decode = _decode_of(graph)
    body = graph.up_to(decode)
    return outputs_of(graph.behind(decode), (_without_gradients(body, part) for part in images.split(chunk)), images)


def _without_gradients(body: fx.GraphModule, images: Tensor) -> Tensor:
    """Activations; spikes have no gradient."""
    with torch.no_grad():
        activations: Tensor = body.forward(images)
    return activations


def _decode_of(graph: Graph) -> Node:
    return next(iter(graph.nodes(Decode)))


def simulated(graph: Graph, images: Tensor, timesteps: int, *, membranes: bool = False, readout: bool = True) -> Run:
    """Run a spiking graph in PyTorch and look inside: what every engine has to give.

    Args:
        graph: the program.
        images: [N, C, H, W].
        timesteps: T, as its layers have it.
        membranes: keep every membrane at every step.
        readout: run the tail, too; without it there are no logits.

    Raises:
        DataError: these cannot be images for the network, or what it returns cannot be told apart by image.
    """
    check_images(images, graph.image_form)
    if len(images) == 0:
        raise DataError("there are no images to look at")
    watch = _Watch(graph, keep=("spikes", "membranes") if membranes else ("spikes",))
    activations = watch.run(images)
    logits = watch.logits(activations, images, timesteps) if readout else None
    return Run(logits, watch.spikes, watch.ranges, watch.membranes())


def logits_after_each_step(graph: Graph, images: Tensor, timesteps: int) -> Any:
    """Logits [T, N, classes] of a spiking graph in PyTorch, a few images at a time; or a structure of such tensors.

    Raises:
        DataError: these cannot be images for the network, or what it returns cannot be told apart by image.
    """
    check_images(images, graph.image_form)
    watch = _Watch(graph, keep=())
    parts = parts_of(images, FRAMES_AT_ONCE // timesteps)
    return joined([watch.logits(watch.run(part), part, timesteps) for part in parts], dim=1)


@dataclass(frozen=True, eq=False)
class Compiled:
    """An engine and what belongs to it.

    Attributes:
        circuit: the spiking part.
        engine: what runs it.
        tail: run on activations and images.
        program: of the graph, as `_program_of` tells it.
        fingerprint: of the tensors that the engine has copied.
    """

    circuit: Circuit
    engine: Engine | None
    tail: fx.GraphModule
    program: tuple[Any, ...]
    fingerprint: Fingerprint

    def is_of(self, graph: Graph) -> bool:
        """Whether the graph still calls the same modules in the same way, and tensors are what the engine copied."""
        return _program_of(graph) == self.program and self.fingerprint.holds(self.circuit)

    def logits(self, images: Tensor) -> Any:
        """[N, classes], or whatever the tail makes of the activations of all images."""
        return outputs_of(self.tail, map(self._activations, self._parts(images)), images)

    def logits_after_each_step(self, images: Tensor) -> Any:
        """[T, N, classes], or a structure of such tensors."""
        parts = self._parts(images, _COUNTS_AT_ONCE // self._timesteps)
        return joined([self._logits_after_each_step(part, self._counts_after_each_step(part)) for part in parts], dim=1)

    def simulated(self, images: Tensor, *, readout: bool = True) -> Run:
        """As the function `simulated`."""
        check_images(images, self.circuit.encode.form)
        recording = Recording()
        counts = self._counts_after_each_step(images, recording)
        logits = self._logits_after_each_step(images, counts) if readout else None
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
        check_images(images, self.circuit.encode.form)
        recording, wrong = Recording(), []
        self.engine.counts(images, recording=recording)
        values: dict[int, Tensor] = self.circuit.of_images(images)
        for number, call in enumerate(self.circuit.calls):
            if number not in values:
                values[number] = call.module(*(values[one] for one in call.inputs))
            if isinstance(call.module, Spiking):
                found = recording.spikes[call.name].flatten(0, 1)
                if not torch.equal(found.to(values[number].dtype), values[number]):
                    wrong.append(call.name)
            for one in set(call.inputs):
                if self.circuit.last_readers[one] == number:
                    del values[one]
        return wrong

    @property
    def _timesteps(self) -> int:
        return self.circuit.decode.dynamics.timesteps

    def _parts(self, images: Tensor, most: int = 1 << 31) -> Sequence[Tensor]:
        """As many images at a time as the engine likes, or fewer."""
        assert self.engine is not None
        check_images(images, self.circuit.encode.form)
        return parts_of(images, min(self.engine.images_at_once, most))

    def _activations(self, images: Tensor) -> Tensor:
        assert self.engine is not None
        with torch.no_grad():
            return self.circuit.decode.value(self.engine.counts(images))

    def _counts_after_each_step(self, images: Tensor, recording: Recording | None = None) -> Tensor:
        assert self.engine is not None
        return self.engine.counts(images, every_step=True, recording=recording)

    def _logits_after_each_step(self, images: Tensor, counts: Tensor) -> Any:
        activations = self.circuit.decode.values_after_each_step(counts)
        return outputs_after_each_step(self.tail, activations, images, len(counts), frames=self.circuit.frames)


def compiled(graph: Graph, circuit: Circuit, engine: str) -> Compiled:
    """The engine of that name for a network.

    Raises:
        OptionError: it was asked for by name, and cannot run here.
    """
    tail = graph.behind(_decode_of(graph))
    return Compiled(circuit, engine_for(engine, circuit), tail, _program_of(graph), fingerprint(circuit))


def _program_of(graph: Graph) -> tuple[Any, ...]:
    """All calls of a graph: what is called, with what, and the very modules; users may put others in their places."""
    modules = graph.module
    return tuple(
        (node, node.target, node.args, node.kwargs, modules.get_submodule(str(node.target)))
        if node.op == "call_module"
        else (node, node.target, node.args, node.kwargs)
        for node in modules.graph.nodes
    )


class _Watch(Interpreter):
    """Runs a spiking graph up to its activations after every step, [T * N, ...], and keeps what its layers do."""

    def __init__(self, graph: Graph, *, keep: Sequence[str]) -> None:
        self._frames, decode = graph.image_form.frames is not None, _decode_of(graph)
        self._tail = graph.behind(decode)
        super().__init__(graph.up_to(decode))
        self._keep = keep
        self.spikes: dict[str, Tensor] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._steps: dict[str, list[Tensor]] = {}

    def logits(self, activations: Tensor, images: Tensor, timesteps: int) -> Any:
        """What the tail makes of activations after each step."""
        return outputs_after_each_step(self._tail, activations, images, timesteps, frames=self._frames)

    def run_node(self, n: Node) -> Any:
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if not isinstance(module, Spiking | Decode):
            return super().run_node(n)
        inputs: tuple[Any, ...] = self.fetch_args_kwargs_from_env(n)[0]
        if isinstance(module, Decode):
            return module.after_each_step(*inputs)
        if not self._keep:
            return module(*inputs)
        name = str(n.target)
        lows, highs, steps = [], [], self._steps.setdefault(name, [])

        def record(membrane: Tensor) -> None:
            lows.append(membrane.amin())
            highs.append(membrane.amax())
            if "membranes" in self._keep:
                steps.append(membrane.clone())

        spikes = module.fire(*inputs, record=record)
        self.ranges[name] = (torch.stack(lows).min().item(), torch.stack(highs).max().item())
        assert module.dynamics is not None
        self.spikes[name] = spikes.unflatten(0, (module.dynamics.timesteps, -1))
        return spikes

    def membranes(self) -> dict[str, Tensor]:
        """Membranes per layer, [T, N, C, ...]."""
        return {name: torch.stack(steps) for name, steps in self._steps.items() if steps}
