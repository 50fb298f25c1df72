"""Statistics of activations over any number of batches, in bounded memory and whatever the order of the batches.

Activations are counted in bins of equal relative width, so that no range has to be known beforehand and a count is a
count: adding up integers gives the same result in every order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import Node

from fxsnn.calibration.bins import BINS, MANTISSA_BITS, bin_edges, bins_of
from fxsnn.calibration.magnitudes import Counts, Magnitudes, counted
from fxsnn.data import accepted, own_image_batches, reproducible
from fxsnn.display import progress_bar
from fxsnn.errors import DataError
from fxsnn.graph import Graph, Interpreter, normalised_images
from fxsnn.numerics import Dynamics, steady_spike_counts
from fxsnn.processes import in_turn, largest, summed

_MSE_CANDIDATES = 200


class Histogram:
    """Counts of non-negative values, as a ReLU gives them.

    Attributes:
        largest: the largest value so far.
        zeros: how many values were zero.
        counts: int64 [bins], how many positive values fell into each bin.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.zeros = 0
        self.counts = torch.zeros(BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count values of any shape; negative ones count as zero.

        Raises:
            DataError: a value is NaN or infinite.
        """
        flat = values.detach().float().reshape(-1)
        if not bool(torch.isfinite(flat).all()):
            raise DataError("the network's activations on these images are not finite")
        positive = flat[flat > 0]
        self.zeros += flat.numel() - positive.numel()
        if positive.numel():
            self.largest = max(self.largest, float(positive.max()))
            self.counts += torch.bincount(bins_of(positive), minlength=BINS).cpu()

    def join_others(self) -> None:
        """Count what other processes have counted, too, see `fxsnn.across_processes`."""
        self.counts = summed(self.counts)
        self.zeros = int(summed(torch.tensor(self.zeros)))
        self.largest = float(largest(torch.tensor(self.largest, dtype=torch.float64)))

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self.zeros + int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """The value below which `share` of all values lie, interpolated within its bin; at most `largest`."""
        rank = share * self.total
        if rank <= self.zeros:
            return 0.0
        below = torch.cumsum(self.counts, 0)
        place = int(torch.searchsorted(below.double(), rank - self.zeros))
        place = min(place, BINS - 1)
        inside = (rank - self.zeros - float(below[place] - self.counts[place])) / max(1.0, float(self.counts[place]))
        low, high = bin_edges()[place : place + 2].tolist()
        return min(low + inside * (high - low), self.largest)

    def share_from(self, value: float) -> float:
        """The share of all values at or above `value`, to the width of a bin."""
        edges = bin_edges()[:-1]
        return float(self.counts[edges >= value * (1 - 2.0**-MANTISSA_BITS)].sum()) / max(1, self.total)

    def least_error_threshold(self, dynamics: Dynamics) -> float:
        """The threshold at which what neurons make of the values under a steady drive has the least squared error."""
        used = self.counts.nonzero().squeeze(1)
        edges = bin_edges()
        values, weights = (edges[used] + edges[used + 1]) / 2, self.counts[used].double()
        best, least = self.largest, float("inf")
        for share in torch.logspace(-2, 0, _MSE_CANDIDATES).tolist():
            threshold = self.largest * share
            rounded = steady_spike_counts(values / threshold, dynamics) * (threshold / dynamics.timesteps)
            error = float(((values - rounded).square() * weights).sum())
            if error < least:
                best, least = threshold, error
        return best


class Watch(Interpreter):
    """Runs a graph and shows what chosen nodes give.

    Args:
        graph: the network.
        nodes: nodes of it.
        see: called with each of these nodes and its value.
    """

    def __init__(self, graph: Graph, nodes: Collection[Node], see: Callable[[Node, Tensor], None]) -> None:
        super().__init__(graph.module)
        self._nodes, self._see = nodes, see

    def run_node(self, n: Node) -> Any:
        """See `fx.Interpreter`."""
        value = super().run_node(n)
        if n in self._nodes:
            self._see(n, value)
        return value


def observe(
    graph: Graph, nodes: Iterable[Node], data: Any, *, progress: bool = False
) -> tuple[dict[Node, Histogram], Magnitudes]:
    """Statistics of the outputs of `nodes`, and of the images, as they are rounded to the integer input.

    Args:
        graph: the network.
        nodes: nodes of it with non-negative outputs.
        data: see `image_batches`.
        progress: show a progress bar.

    Raises:
        DataError: the data are empty, do not fit the network, or lead to values that are not finite.
    """
    histograms = {node: Histogram() for node in nodes}
    observer = Watch(graph, histograms, lambda node, value: histograms[node].add(value))
    seen = Magnitudes()
    _, normalise = normalised_images(graph)
    form = graph.image_form

    def look_at(images: Tensor) -> Counts:
        if not bool(torch.isfinite(images).all()):
            raise DataError("calibration images contain infinite values")
        stills = form.stills(images)
        counts = counted(stills if normalise is None else normalise.exact(stills.to(graph.device)))
        with accepted(images, what="calibration images"):
            observer.run(images.to(graph.device, graph.dtype))
        return counts

    with torch.no_grad(), reproducible(0, data):
        batches = progress_bar(own_image_batches(data, form), "calibrating", show=progress)
        for counts in in_turn(batches, look_at):
            seen.join(counts)
        for histogram in histograms.values():
            histogram.join_others()
    return histograms, seen
