"""CorrectLayers: biases and thresholds that suit n-bit weights and the spikes that layers really read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import OptionError, PipelineError
from fxsnn.graph import Graph
from fxsnn.layers import LowBit
from fxsnn.neuron import Dynamics
from fxsnn.observe import Histogram, Watch, image_batches
from fxsnn.stages import Pass, facts
from fxsnn.student import Student, float_form
from fxsnn.target import HardwareTarget

_CHUNK = 128


class CorrectLayers(Pass):
    """Correct one layer after the other, in order, without training.

    Each layer is seen with its n-bit weights and with the rates of spikes that the corrected layers before it really
    have on the data.

    * Its bias is moved so that each channel has the mean it has in the float network (bias correction: Nagel et al.
      2019, section 4.2, there with the float input).
    * Then its threshold becomes that of least squared error, for the rates of T steps
      under a steady drive.

    Args:
        data: images, an iterable of batches, or a `DataLoader` of (images, labels); gone through
            once per layer and once more, twice per layer with both corrections.
        target: gives the widths of the registers.
        biases: correct biases; a layer without one gets one.
        thresholds: correct thresholds.
        timesteps: T.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold.
    """

    data: Any
    target: HardwareTarget
    biases: bool = True
    thresholds: bool = True
    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5

    needs = facts("thresholds", "low-bit-weights")
    gives = facts("corrected")

    def __post_init__(self) -> None:
        self._dynamics()
        if not (self.biases or self.thresholds):
            raise OptionError("biases and thresholds are both False; leave the correction out instead")

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.timesteps, self.reset, self.initial_membrane)

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if self.data is None:
            raise PipelineError("correct-layers needs data: images on which layers are seen")
        wanted = self._channel_means(float_form(graph))
        student = Student(graph, self.target, self._dynamics())
        for node in graph.body(LowBit):
            if self.biases:
                found = self._channel_means(graph, student, node)[graph.name(node)]
                student.move_bias(node, wanted[graph.name(node)] - found)
            if self.thresholds:
                student.set_threshold(node, self._threshold(graph, student, node))
        student.finish()

    def _channel_means(
        self, graph: Graph, student: Student | None = None, only: Node | None = None
    ) -> dict[str, Tensor]:
        """Mean of each channel in front of the activation, over the data, by layer."""
        nodes = [only] if only is not None else graph.body(nn.Conv2d, nn.Linear)
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def add(node: Node, value: Tensor) -> None:
            name, channels = graph.name(node), value.double().transpose(0, 1).flatten(1)
            totals[name] = totals.get(name, 0) + channels.sum(1)
            counts[name] = counts.get(name, 0) + channels.shape[1]

        self._watch(graph, nodes, add, student)
        return {name: total / counts[name] for name, total in totals.items()}

    def _threshold(self, graph: Graph, student: Student, node: Node) -> float:
        histogram = Histogram()
        self._watch(graph, [node], lambda _, value: histogram.add(value), student)
        return histogram.least_error_threshold(self._dynamics()) if histogram.largest else 0.0

    def _watch(
        self, graph: Graph, nodes: list[Node], see: Callable[[Node, Tensor], None], student: Student | None
    ) -> None:
        """Show what nodes give on the data."""
        watch = Watch(graph, nodes, see)
        weight = next(graph.module.parameters())
        with torch.no_grad():
            for batch in image_batches(self.data, graph.input_channels):
                for images in batch.to(weight.device, weight.dtype).split(_CHUNK):
                    if student is not None:
                        student.simulate(images)
                    watch.run(images)
        if student is not None:
            student.forget()
