"""CorrectLayers: biases and thresholds that suit n-bit weights and the spikes that layers really read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.calibration import Histogram, Watch
from fxsnn.chip import HardwareTarget, require_target
from fxsnn.data import accepted, drawn_alike, image_batches
from fxsnn.display import progress_bar
from fxsnn.errors import OptionError, PipelineError, TargetError
from fxsnn.graph import Graph
from fxsnn.layers import Add, Bound
from fxsnn.numerics import Dynamics
from fxsnn.options import require_flag
from fxsnn.rewriting import Pass, facts
from fxsnn.training import Frontier, Student, float_form

_CHUNK = 128
_VALUES = 1 << 7
"""So many values of a channel are kept of an image."""
_VALUES_IN_ALL = 1 << 17
_HALVINGS = 50
"""Of an interval of doubles, down to about the last of their 53 digits; more would change nothing."""
_MOST_KEPT = 1 << 30
"""So many bytes may the spikes take from which layers go on; see `fxsnn.training.Frontier`."""


class CorrectLayers(Pass):
    """Correct one layer after the other, in order, without training.

    Each layer is seen with its n-bit weights and with the rates of spikes that the corrected layers before it really
    have on the data. A sum of several inputs is one layer: what its bias lacks is added once, to all of them together.

    * Its bias is moved so that each channel has the mean activation it has in the float network, both clipped at the
      threshold (bias correction: Nagel et al. 2019, section 4.2, there of the mean in front of the activation; of what
      comes behind it: Li et al. 2021, section 4.2). Equal means in front are not enough: low bits make drives narrower,
      so that fewer and fewer of them get above zero, and deep networks fall silent.
    * Then its threshold becomes that of least squared error, for the rates of T steps under a steady drive. Where the
      network's own activation ends, the threshold is no higher; where that has levels, it stays.

    Args:
        data: images, an iterable of batches, or a `DataLoader` of (images, labels). Time grows with the number of
            layers as long as the spikes of one layer on all of them take no more than 1 GiB, a bit each (1,000 images,
            16 steps: maps of 500,000 neurons); images beyond that are simulated from the first layer on for every
            layer.
        target: gives the widths of the registers.
        biases: correct biases; a layer without one gets one.
        thresholds: correct thresholds.
        timesteps: T.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold.
        progress: show a progress bar.
    """

    data: Any
    target: HardwareTarget
    biases: bool = True
    thresholds: bool = True
    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5
    progress: bool = False

    needs = facts("thresholds", "low-bit-weights")
    gives = facts("corrected")

    def __post_init__(self) -> None:
        self._dynamics()
        require_target(self.target)
        for name in ("biases", "thresholds", "progress"):
            object.__setattr__(self, name, require_flag(name, getattr(self, name)))
        if not (self.biases or self.thresholds):
            raise OptionError("biases and thresholds are both False; leave the correction out instead")

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.timesteps, self.reset, self.initial_membrane)

    def corrected(self) -> str:
        """What it corrects: "biases", "thresholds" or "both"."""
        if self.biases and self.thresholds:
            return "both"
        return "biases" if self.biases else "thresholds"

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if self.data is None:
            raise PipelineError("correct-layers needs data: images on which layers are seen")
        teacher = float_form(graph)  # before the graph becomes a student's
        student = Student(graph, self.target, self._dynamics())
        wanted = self._mean_activations(teacher, student) if self.biases else {}
        frontier = Frontier(student, lambda: self._images(graph), _MOST_KEPT)
        for node in progress_bar(student.layers(), "correcting", show=self.progress):
            with _without_training():
                student.round(node)  # the layers before it are final
                if self.biases:
                    drives = _some_of(frontier.drives(node))
                    shift = shift_for_mean(drives, wanted[graph.name(node)], student.threshold(node))
                    student.move_bias(node, shift)
                bound = student.bound(node)
                if self.thresholds and (bound is None or bound.levels is None):
                    student.set_threshold(node, self._threshold(frontier.drives(node), bound))
        student.finish()

    def _mean_activations(self, teacher: Graph, student: Student) -> dict[str, Tensor]:
        """Mean activation of each channel in the float network, clipped at the student's threshold, by layer."""
        tops = {student.graph.name(node): student.threshold(node) for node in student.layers()}
        nodes = [node for node in teacher.body(nn.Conv2d, nn.Linear, Add) if teacher.name(node) in tops]
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def add(node: Node, value: Tensor) -> None:
            name = teacher.name(node)
            channels = value.double().clamp(0, tops[name]).transpose(0, 1).flatten(1)
            totals[name] = totals.get(name, 0) + channels.sum(1)
            counts[name] = counts.get(name, 0) + channels.shape[1]

        watch = Watch(teacher, nodes, add)
        for images in self._images(teacher):
            with torch.no_grad(), accepted(images, what="calibration images"):
                watch.run(images)
        return {name: total / counts[name] for name, total in totals.items()}

    def _threshold(self, drives: Iterable[Tensor], bound: Bound | None) -> float:
        histogram = Histogram()
        for values in drives:
            histogram.add(values if bound is None else values.clamp(max=bound.value))
        return histogram.least_error_threshold(self._dynamics()) if histogram.largest else 0.0

    def _images(self, graph: Graph) -> Iterator[Tensor]:
        """The data in small batches; every layer, and the float network, is to see the same images."""
        for batch in drawn_alike(image_batches(self.data, graph.image_form), self.data):
            yield from batch.to(graph.device, graph.dtype).split(_CHUNK)


def _some_of(drives: Iterable[Tensor]) -> Tensor:
    """What stands in front of the activation of a layer, [C, n]: everything, or of much a random part."""
    generator = torch.Generator().manual_seed(0)
    kept: list[Tensor] = []
    share = 1.0  # the same of every image, so that all count alike

    def some(channels: Tensor, count: int) -> Tensor:
        chosen = torch.randperm(channels.shape[1], generator=generator)[:count]
        return channels[:, chosen.to(channels.device)]

    for value in drives:
        channels = value.double().transpose(0, 1).flatten(1)
        if not kept:
            share = min(1.0, _VALUES * len(value) / channels.shape[1])
        most = max(1, round(share * channels.shape[1]))
        kept.append(some(channels, most) if channels.shape[1] > most else channels)
        if sum(part.shape[1] for part in kept) > _VALUES_IN_ALL:  # from now on, and of what there is, only half
            kept, share = [some(part, (part.shape[1] + 1) // 2) for part in kept], share / 2
    return torch.cat(kept, 1)


@contextmanager
def _without_training() -> Iterator[None]:
    """What leaves its register was moved there by the correction, not by a training."""
    try:
        yield
    except TargetError as error:
        remedy = "It is the correction that moves it there: leave it out with correction=None"
        raise TargetError([replace(finding, remedy=remedy) for finding in error.findings]) from error


def shift_for_mean(values: Tensor, wanted: Tensor, top: float) -> Tensor:
    """What to add to each row of values so that, clipped to 0..top, it has the mean that is wanted.

    Args:
        values: [C, n].
        wanted: [C], from 0 to `top`.
        top: positive.

    >>> shift_for_mean(torch.tensor([[-1.0, 1.0]]), torch.tensor([1.0]), 10.0).round(decimals=4)  # 0 and 2
    tensor([1.])
    """
    low, high = -values.amax(1).clamp_min(0), top - values.amin(1)  # all at 0, all at the top
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        less = (values + middle[:, None]).clamp(0, top).mean(1) < wanted
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) / 2
