"""Correcting one layer after the other: codes, biases and thresholds that suit the spikes that layers really read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.calibration import Histogram, MomentMeter, Sample, Watch, shift_for_mean, some_of, some_of_batch
from fxsnn.data import accepted
from fxsnn.errors import TargetError
from fxsnn.graph import Graph
from fxsnn.layers import Add, Bound
from fxsnn.numerics import reconstructed, steady_spike_counts
from fxsnn.processes import in_turn, numbered, of_first, sharing_errors
from fxsnn.training.frontier import FloatFrontier, SpikeFrontier
from fxsnn.training.student import Student

PARTS = ("weights", "biases", "thresholds")
"""What can be corrected, in the order in which it is."""
_MOST_KEPT = 1 << 30
"""So many bytes may the spikes take from which layers go on, and the float network's values; see `Frontier`."""
_HELD_OUT = 4
"""Every so manyth image judges codes, and they are not chosen on it."""


class Correction:
    """The correction of a network, layer by layer.

    Args:
        student: the network that is corrected.
        teacher: the float network.
        images: gives the same batches of images at every call, where the network is; those of this process, where
            several work together.
        parts: what is corrected, of `PARTS`.

    Attributes:
        chosen: names of the layers whose codes were chosen on the images, so far.
    """

    def __init__(
        self, student: Student, teacher: Graph, images: Callable[[], Iterator[Tensor]], parts: Iterable[str]
    ) -> None:
        self._student, self._teacher, self._parts = student, teacher, frozenset(parts)
        self._in_teacher = {teacher.name(node): node for node in teacher.body(nn.Conv2d, nn.Linear, Add)}
        self._images = 0
        self._first: dict[int, int] = {}
        """By number of a batch, that of its first image."""
        self._wanted = self._mean_activations(images()) if self._parts - {"thresholds"} else {}
        self._spikes = SpikeFrontier(student, images, _MOST_KEPT)
        self._floats = FloatFrontier(teacher, images, _MOST_KEPT)
        self.chosen: list[str] = []

    def correct(self, node: Node) -> None:
        """Correct a layer, the next one in order.

        Raises:
            TargetError: the correction takes a value out of its register.
        """
        student = self._student
        with torch.no_grad(), _without_training():
            student.round(node)  # the layers before it are final
            weighted = [one for one in student.weighted_inputs(node) if MomentMeter.takes(student.low_bit(one))]
            if "weights" in self._parts and weighted:
                self._keep_better_codes(node, weighted)
            else:
                self._adjust(node)
            self._settle(node)

    def _keep_better_codes(self, node: Node, weighted: Iterable[Node]) -> None:
        """Rounded or chosen, whichever brings the layer nearer; its bias and threshold suit them."""
        student = self._student
        meters = {one: MomentMeter(student.low_bit(one), self._images) for one in weighted}
        as_it_was = student.snapshot(node)
        rounded = self._tried(node, meters)
        as_rounded = student.snapshot(node)
        as_it_was()
        if self._chosen_off(node, meters) < rounded:
            self.chosen += [student.graph.name(one) for one in meters]
        else:
            as_rounded()

    def _settle(self, node: Node) -> None:
        """Move the bias once more, by as much as the mean of real spikes is off the one that is wanted.

        Spikes that come in bursts make others than as many that are spread over the steps. A channel goes at most half
        of the way to silence or to its threshold, and back where that brought it no nearer; a bias that would leave its
        register stays.
        """
        if "biases" not in self._parts:
            return
        student = self._student
        wanted, top = self._wanted[student.graph.name(node)], student.threshold(node)
        value = student.spike_value(node).double()
        before = self._spikes.fired(node)
        spiking = before.rates * value
        aim = torch.minimum((2 * wanted - spiking).maximum(wanted / 2), (wanted + top) / 2)
        shift = shift_for_mean(some_of(self._spikes.drives(node)), aim, top)
        as_it_was = student.snapshot(node)
        try:
            student.move_bias(node, shift)
            after = self._spikes.fired(node)
            nearer = (after.rates * value - wanted).abs() < (spiking - wanted).abs()
            as_it_was()
            student.move_bias(node, shift.where(nearer, 0.0))
            self._spikes.keep(node, before, after, nearer)
        except TargetError:
            as_it_was()

    def _chosen_off(self, node: Node, meters: Mapping[Node, MomentMeter]) -> float:
        """Choose codes: how far off the layer then is, endlessly where they take a value out of its register."""
        try:
            for one, meter in meters.items():
                self._choose(one, meter)
            self._student.round(node)
            return self._tried(node, {})
        except TargetError:
            return math.inf

    def _choose(self, weighted: Node, meter: MomentMeter) -> None:
        """Choose the codes of a layer with weights."""
        low = self._student.low_bit(weighted)
        weight, step = low.scaled(low.float_weight).flatten(1), low.step.detach()
        if low.step_ratio is not None:  # its gain is that of a sum
            step = step * low.step_ratio.to(step.dtype)
        free = low.step_ratio is None and len(step) > 1
        steps, codes = of_first(reconstructed(weight, step, low.codebook, meter.moments(), fit=free))
        self._student.set_codes(weighted, codes, steps if free else None)

    def _tried(self, node: Node, meters: Mapping[Node, MomentMeter]) -> float:
        """Correct bias and threshold for the present codes: how far off the layer then is, on images held out."""
        seen = self._beside_the_teacher(node, meters)  # drives, what is wanted, which images
        drives, wanted, held_out = seen.split([(len(seen) - 1) // 2] * 2 + [1])
        drives = self._adjust(node, drives)
        judged = held_out[0] > 0
        if not bool(judged.any()):
            judged = ~judged
        value = self._student.spike_value(node).double()[:, None]
        rates = (
            steady_spike_counts(drives[:, judged] / value, self._student.dynamics) / self._student.dynamics.timesteps
        )
        return of_first(float((rates * value - wanted[:, judged]).square().mean()))

    def _beside_the_teacher(self, node: Node, meters: Mapping[Node, MomentMeter]) -> Tensor:
        """Some drives of a layer, the float network's activations, and whether images are held out, side by side.

        Meters look at what its weights are multiplied by, on the other images.
        """
        graph, teacher = self._student.graph, self._teacher
        theirs = {one: self._in_teacher[graph.name(one)] for one in (node, *meters)}
        activation = teacher[next(iter(theirs[node].users))]
        reads = {one: (one.all_input_nodes[0], theirs[one].all_input_nodes[0]) for one in meters}

        def look_at(one: tuple[int, tuple[Mapping[Node, Tensor], Mapping[Node, Tensor]]]) -> tuple[Any, ...]:
            number, (values, floats) = one
            drive = values[node]
            places = self._first[number] + torch.arange(len(drive), device=drive.device)
            held_out = places % _HELD_OUT == _HELD_OUT - 1
            seen = [
                meter.products(values[reads[layer][0]][~held_out], floats[reads[layer][1]][~held_out], number)
                for layer, meter in meters.items()
            ]
            wanted = activation(floats[theirs[node]]).clamp(max=self._student.threshold(node))
            flags = held_out.to(drive.dtype).view(-1, *[1] * (drive.dim() - 1)).expand_as(drive[:, :1])
            return some_of_batch(torch.cat((drive, wanted.to(drive.dtype), flags), 1), number), seen

        batches = zip(
            self._spikes.values(node, *(ours for ours, _ in reads.values())),
            self._floats.values(theirs[node], *(other for _, other in reads.values())),
            strict=True,
        )
        sample = Sample()
        for part, seen in in_turn(numbered(batches), look_at):
            sample.add(part)
            for meter, products in zip(meters.values(), seen, strict=True):
                meter.add(products)
        return sample.values()

    def _adjust(self, node: Node, drives: Tensor | None = None) -> Tensor:
        """Correct bias and threshold, as far as that is wanted; some of the drives by then, [C, n].

        Args:
            node: the layer.
            drives: some of the drives before, [C, n], if they are at hand.
        """
        student = self._student
        if "biases" in self._parts:
            drives = some_of(self._spikes.drives(node)) if drives is None else drives
            shift = shift_for_mean(drives, self._wanted[student.graph.name(node)], student.threshold(node))
            student.move_bias(node, shift)
            drives = drives + shift[:, None]
        bound = student.bound(node)
        if "thresholds" in self._parts and (bound is None or bound.levels is None):
            student.set_threshold(node, self._threshold(self._spikes.drives(node), bound))
        return torch.empty(0) if drives is None else drives

    def _threshold(self, drives: Iterable[Tensor], bound: Bound | None) -> float:
        histogram = Histogram()
        with sharing_errors():
            for values in drives:
                histogram.add(values if bound is None else values.clamp(max=bound.value))
        histogram.join_others()
        return histogram.least_error_threshold(self._student.dynamics) if histogram.largest else 0.0

    def _mean_activations(self, images: Iterator[Tensor]) -> dict[str, Tensor]:
        """Mean activation of each channel in the float network, clipped at the student's threshold, by layer."""
        student, teacher = self._student, self._teacher
        tops = {student.graph.name(node): student.threshold(node) for node in student.layers()}
        nodes = [node for name, node in self._in_teacher.items() if name in tops]

        def look_at(batch: Tensor) -> tuple[int, dict[str, Tensor], dict[str, int]]:
            sums, counts = dict[str, Tensor](), dict[str, int]()

            def add(node: Node, value: Tensor) -> None:
                name = teacher.name(node)
                channels = value.double().clamp(0, tops[name]).transpose(0, 1).flatten(1)
                sums[name], counts[name] = channels.sum(1), channels.shape[1]

            with torch.no_grad(), accepted(batch, what="calibration images"):
                Watch(teacher, nodes, add).run(batch)
            return len(batch), sums, counts

        totals, counts = dict[str, Tensor](), dict[str, int]()
        for number, (size, sums, seen) in enumerate(in_turn(images, look_at)):
            self._first[number], self._images = self._images, self._images + size
            for name, one in sums.items():
                totals[name] = totals.get(name, 0) + one
                counts[name] = counts.get(name, 0) + seen[name]
        return {name: total / counts[name] for name, total in totals.items()}


@contextmanager
def _without_training() -> Iterator[None]:
    """What leaves its register was moved there by the correction, not by a training."""
    try:
        yield
    except TargetError as error:
        remedy = "It is the correction that moves it there: leave it out with correction=None"
        raise TargetError([replace(finding, remedy=remedy) for finding in error.findings]) from error
