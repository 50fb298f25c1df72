"""How many timesteps a spiking network needs: accuracy, synaptic operations and latency against T.

sweep = fxsnn.sweep(snn, test_loader)
print(sweep)
snn.timesteps = sweep.recommended
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.data import (
    Reading,
    accepted,
    gives_probabilities,
    labelled_batches,
    own_part_of,
    reading_of,
    require_accuracy,
    require_outputs,
)
from fxsnn.display import aligned, html, progress_bar
from fxsnn.errors import DataError, OptionError
from fxsnn.graph import place_of
from fxsnn.insight.evaluation import AFTER_EACH_STEP, at_the_end
from fxsnn.layers import in_words
from fxsnn.network import SpikingNetwork, require_spiking
from fxsnn.options import real_number, require_flag, shown
from fxsnn.processes import sharing_errors, summed
from fxsnn.report import Meter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TIMESTEPS = 64
"""The largest T of a sweep where nothing else is said."""


@dataclass(frozen=True)
class Point:
    """The network at one T.

    Attributes:
        timesteps: T.
        accuracy: percentage of the images that it classifies right.
        synaptic_operations: additions per image, all layers but those that read the images.
        input_operations: multiplications of layers that read the images, per image.
        latency: steps from an image to its answer on a chip where every layer takes a step: T + layers - 1, of layers
            on the longest way.
    """

    timesteps: int
    accuracy: float
    synaptic_operations: float
    input_operations: float
    latency: int


@dataclass(frozen=True)
class Sweep:
    """A network at every T; `print` it, or let a notebook show it.

    Attributes:
        images: on how many images.
        points: for T = 1, 2, ...
        reference: accuracy that others are held against, in percent: that of the ANN, or else that at the largest T.
        reference_is_ann: whether it is the ANN's.
        tolerance: how many points below that are good enough.
        recommended: the smallest T from which on accuracy stays within the tolerance, `None` if there is none.
    """

    images: int
    points: tuple[Point, ...] = field(repr=False)
    reference: float
    reference_is_ann: bool
    tolerance: float
    recommended: int | None

    @property
    def standard_error(self) -> float:
        """Of an accuracy in percentage points: what is smaller than a few of these may be chance."""
        share = self.points[-1].accuracy / 100
        return float(100 * (share * (1 - share) / self.images) ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "standard_error": self.standard_error}

    def rows(self) -> list[tuple[str, ...]]:
        """The table as cells, header first: powers of two, the recommended T and the largest one."""
        header = ("T", "accuracy", "synaptic operations/image", "latency, steps", "")
        longest = len(self.points)
        wanted = {1 << i for i in range(longest.bit_length())} | {longest, self.recommended}
        return [
            header,
            *(
                (
                    str(point.timesteps),
                    f"{point.accuracy:.2f} %",
                    f"{point.synaptic_operations:,.0f}",
                    str(point.latency),
                    "recommended" if point.timesteps == self.recommended else "",
                )
                for point in self.points
                if point.timesteps in wanted
            ),
        ]

    def verdict(self) -> str:
        """The recommendation in a sentence."""
        of = "of the ANN" if self.reference_is_ann else f"at T={len(self.points)}"
        bound = f"within {self.tolerance:g} points of {self.reference:.2f} % {of}"
        if self.recommended is None:
            return f"No T up to {len(self.points)} is {bound}: fine-tune, use more bits, or a larger T."
        return f"T={self.recommended} is the smallest from which on accuracy stays {bound}."

    def _basis(self) -> str:
        return f"{self.images} images; standard error of an accuracy: {self.standard_error:.2f} points"

    def __str__(self) -> str:
        return "\n".join([aligned(self.rows()), self.verdict(), self._basis()])

    def _repr_html_(self) -> str:
        header, *rows = self.rows()
        colours = ["#cfe3f1" if row[-1] else "" for row in rows]
        return f"{html([header, *rows], colours)}<p><b>{escape(self.verdict())}</b> {escape(self._basis())}</p>"

    def plot(self, axes: Axes) -> Axes:
        """Draw accuracy and synaptic operations against T, see `fxsnn.plots.timesteps_sweep`."""
        from fxsnn.display import plots

        against = "the ANN" if self.reference_is_ann else f"T={len(self.points)}"
        return plots.timesteps_sweep(
            axes,
            [point.accuracy for point in self.points],
            [point.synaptic_operations for point in self.points],
            lowest=self.reference - self.tolerance,
            lowest_is=f"{self.tolerance:g} points below {against}",
            recommended=self.recommended,
        )


@neutral()
def sweep(
    snn: SpikingNetwork,
    data: Any,
    *,
    timesteps: int | None = None,
    tolerance: float = 0.5,
    model: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
) -> Sweep:
    """Accuracy, synaptic operations and latency at every T up to `timesteps`, from one simulation of that length.

    Args:
        snn: the network; it is left as it is.
        data: a pair of tensors (images, labels), or an iterable of (images, labels) such as a `DataLoader`; labels are
            integers, of a network with one output 0 and 1 of any type. To choose T, use images held out from training,
            not the test set.
        timesteps: the largest T; `None`: 64, or as many as there are frames.
        tolerance: how many points of accuracy below the reference are good enough.
        model: the ANN, whose accuracy in evaluation mode is then the reference; it is left as it is. `None`: the
            accuracy at the largest T is.
        progress: show a progress bar.

    Raises:
        OptionError: a value is not allowed, or `snn` is no spiking network.
        DataError: there are no images, or no labels of its classes with them (values have no accuracy); the model
            cannot be run on them.
    """
    points_below = real_number(tolerance)
    if points_below is None or points_below < 0:
        raise OptionError(f"tolerance is {shown(tolerance)}; allowed are numbers from 0, in points of accuracy")
    require_spiking(snn)
    progress = require_flag("progress", progress)
    longest = SpikingNetwork(snn.graph, snn.target, snn.engine, image_size=snn.image_size)
    form = longest.graph.image_form
    longest.timesteps = form.frames or _TIMESTEPS if timesteps is None else timesteps
    ann = None if model is None else _evaluated(model)
    meter = Meter(longest.graph, longest.timesteps)
    hits = torch.zeros(longest.timesteps, dtype=torch.float64)
    right = 0
    reading: Reading | None = None
    of_ann: Reading | None = None
    batches = own_part_of(data, partial(labelled_batches, form=form, what="data"))
    with torch.no_grad(), sharing_errors():
        for images, labels in progress_bar(batches, "sweeping T", show=progress):
            if labels is None:
                raise DataError("a batch has no labels; give (images, labels), labels an integer tensor [N]")
            start = 0
            for part, run in longest.runs(images):
                meter.add(part, run.spikes, run.membrane_range)
                logits: Any = run.logits
                last = require_outputs(at_the_end(logits), part, "the network", AFTER_EACH_STEP)
                if start == 0:  # labels are read whole
                    whole = last[:1].expand(len(images), *last.shape[1:])
                    probabilities = partial(gives_probabilities, longest, part.to(longest.device))
                    reading = reading_of(whole, labels, probabilities, reading)
                    require_accuracy(reading, labels, AFTER_EACH_STEP)
                assert reading is not None
                hits += reading.right_after_each_step(logits, labels[start : start + len(part)])
                start += len(part)
            if ann is not None:
                stills = images if form.frames is None else images.mean(1)
                with accepted(stills, by="model"):
                    outputs = require_outputs(ann(stills), images, "model", "give a function that picks the same one")
                    of_ann = reading_of(outputs, labels, partial(gives_probabilities, ann, stills), of_ann)
                right += require_accuracy(of_ann, labels, AFTER_EACH_STEP).right(outputs, labels)
    meter.join_others()
    accuracies = (100 * summed(hits) / meter.images).tolist()
    points = _points(meter, accuracies)
    reference = accuracies[-1] if model is None else 100 * int(summed(torch.tensor(right))) / meter.images
    recommended = _recommended(accuracies, reference - points_below)
    return Sweep(meter.images, points, reference, model is not None, points_below, recommended)


def _evaluated(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The model in evaluation mode, wherever it is and whatever its type; the user's own stays as it is."""
    if not callable(model) or isinstance(model, type):
        found = f"the class {model.__name__}" if isinstance(model, type) else in_words(model)
        raise OptionError(f"model is {found}; allowed are a network, a function of images, or None")
    if not isinstance(model, nn.Module):
        return model
    own = copy.deepcopy(model).eval()
    place = place_of(own)
    return lambda images: own(images.to(*place))


def _points(meter: Meter, accuracies: list[float]) -> tuple[Point, ...]:
    inputs = operations = torch.zeros(meter.timesteps, dtype=torch.float64)
    for name, counts in meter.operations.items():
        added = counts.cumsum(0) / meter.images
        inputs, operations = (inputs + added, operations) if name in meter.read_images else (inputs, operations + added)
    return tuple(
        Point(t + 1, accuracy, float(operations[t]), float(inputs[t]), t + meter.depth)
        for t, accuracy in enumerate(accuracies)
    )


def _recommended(accuracies: list[float], lowest: float) -> int | None:
    """The smallest T from which on all accuracies reach `lowest`."""
    found = None
    for t in range(len(accuracies), 0, -1):
        if accuracies[t - 1] < lowest - 1e-9:  # percentages of the same count may differ in the last digit
            break
        found = t
    return found
