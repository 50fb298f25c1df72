"""CalibrateThresholds: ReLU, BoundedReLU → ClippedReLU, with the upper end at which neurons will fire at every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.calibration import (
    INPUT_DEVIATIONS,
    QUANTIZED_INPUT,
    Histogram,
    Magnitudes,
    forget_calibration,
    gaussian_moments,
    gaussian_samples,
    observe,
)
from fxsnn.chip import whole_number
from fxsnn.errors import CalibrationWarning, OptionError, warn
from fxsnn.graph import Graph, normalised_images
from fxsnn.layers import (
    CLIPPED_SHARE,
    FAR_BEYOND,
    ActivationSummary,
    Add,
    AverageFrames,
    Bound,
    BoundedReLU,
    ClippedReLU,
    QuantizedInput,
)
from fxsnn.numerics import Dynamics
from fxsnn.options import is_one_of, real_number, require_flag, shown
from fxsnn.rewriting import Pass, facts, require_not_spiking

METHODS = ("max", "percentile", "mse", "auto")
_LEAST_ERROR = ("mse", "auto")
SATURATED_SHARE = 0.05
"""A layer counts as saturated when more than this share of its activations reach the threshold."""
LOST_SHARE = 0.5
"""The input counts as lost when more than this share of the images' numbers that are not zero round to zero."""
_WIDEST_INPUT = 16
_SEEN_ONCE = (
    "  the input: it clips a few numbers far out of range, and thresholds were found with them, since the data can be "
    "read only once; give a tensor, a list of batches or a DataLoader, or take hot pixels and other outliers off them"
)


class CalibrateThresholds(Pass):
    """Find each ReLU's threshold, and the step of the input.

    Where an activation has an upper end of its own (`BoundedReLU`: ReLU6, a clamp), that is the threshold if the data
    reach it; if they do not, and with methods "mse" and "auto", it is the chosen one, but no higher. Where it has
    levels, too (QCFS), the upper end is the threshold, whatever the data.

    The step of the input is that of the largest magnitude of the images, unless another costs surely less squared error
    of rounding and clipping. Every image counts alike: its errors are relative to its energy. Where some numbers are
    far out of range, thresholds are those of clipped images: data are gone through once more. Without data the largest
    magnitude is taken as 4. Where an `Affine` stands on the images, all this is about what it gives, which is rounded.

    Args:
        data: images, an iterable of batches, or a `DataLoader` of (images, labels). `None`: ranges are derived from
            batch norm statistics and Gaussian moments, with a warning.
        method: "max" takes the largest activation, and of the images the largest magnitude; "percentile" that
            percentile of all activations (zeros included), "mse" the threshold at which clipping and rounding to
            `levels` levels cost the least squared error; "auto" the smaller one of the last two, since a few outliers
            can decide about squares.
        percentile: for that method, and "auto"; above 0, at most 100.
        levels: for "mse" and "auto": the timesteps that the network will run, and so the levels of its rates.
        input_bits: width of the signed integer input, 2 to 16, or `None` for an analog input.
        progress: show a progress bar.
        reset: for "mse" and "auto": that of the network, "subtraction" or "zero".
        initial_membrane: for "mse" and "auto": where the network's membranes start, as a share of the threshold.

    A layer that is silent or saturated on the data is named in a `CalibrationWarning`, unless it saturates at an upper
    end of its own, or where that costs the least squared error. So is an input that rounds more
    than half of the images' numbers to zero, or clips more than 1 % of them from beyond twice its range, zeros left
    out; the smallest `input_bits` is named at which it does not. Thresholds of an earlier calibration are replaced.
    """

    data: Any = None
    method: str = "percentile"
    percentile: float = 99.9
    levels: int = 16
    input_bits: int | None = 8
    progress: bool = False
    reset: str = "subtraction"
    initial_membrane: float = 0.5

    needs = facts("canonical")
    gives = facts("thresholds")

    def __post_init__(self) -> None:
        self._dynamics()
        if not is_one_of(self.method, METHODS):
            raise OptionError(f"calibration method is {shown(self.method)}; allowed are {', '.join(METHODS)}")
        percentile = real_number(self.percentile)
        if percentile is None or not 0 < percentile <= 100:
            raise OptionError(f"percentile is {shown(self.percentile)}; allowed are numbers above 0 and up to 100")
        if self.input_bits is not None and whole_number(self.input_bits) not in range(2, _WIDEST_INPUT + 1):
            found = shown(self.input_bits)
            raise OptionError(f"input_bits is {found}; allowed are 2 to 16, or None for an analog input")
        object.__setattr__(self, "percentile", percentile)
        object.__setattr__(self, "progress", require_flag("progress", self.progress))

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.levels, self.reset, self.initial_membrane)

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        require_not_spiking(graph)
        forget_calibration(graph)
        activations = graph.body(nn.ReLU, BoundedReLU)
        if self.data is None:
            histograms, magnitudes = _without_data(graph, activations), None
        else:
            histograms, magnitudes = observe(graph, activations, self.data, progress=self.progress)
        troubles = []
        if self.input_bits is not None:
            unit = self._unit(magnitudes, self.input_bits)
            if magnitudes is not None:
                troubles.extend(self._input_troubles(magnitudes, unit, self.input_bits))
            _round_input(graph, unit, self.input_bits)
            if magnitudes is not None and magnitudes.shares(unit, self.input_bits).clipped:
                if isinstance(self.data, Iterator):
                    troubles.append(_SEEN_ONCE)
                else:  # layers never see what the input clips
                    histograms, _ = observe(graph, activations, self.data, progress=self.progress)
        for node, histogram in histograms.items():
            bound: Bound | None = getattr(graph[node], "bound", None)
            clipped = self._clipped(histogram, bound, 1 - 2 * torch.finfo(graph.dtype).eps)
            if self.data is not None and clipped.summary is not None:
                meant = self.method == "mse" or (bound is not None and clipped.threshold == bound.value)
                meant |= self.method == "auto" and clipped.threshold < self._percentile(histogram)
                troubles.extend(_troubles(_layer_name(graph, node), clipped.summary, saturates=meant))
            graph.replace(node, clipped)
        if self.data is None:
            warn(
                "thresholds were derived without data, from batch norm statistics and Gaussian moments, for images of "
                "mean 0 and deviation 1; calibration_data= gives better ones",
                CalibrationWarning,
            )
        if troubles:
            warn("\n".join(["calibration found:", *troubles]), CalibrationWarning)

    def _unit(self, magnitudes: Magnitudes | None, bits: int) -> float:
        """The step of an input of so many bits."""
        if magnitudes is None:
            return INPUT_DEVIATIONS / ((1 << (bits - 1)) - 1)
        return magnitudes.widest_unit(bits) if self.method == "max" else magnitudes.least_error_unit(bits)

    def _input_troubles(self, magnitudes: Magnitudes, unit: float, bits: int) -> list[str]:
        """What is wrong with the input at this step, and what was found to help."""
        trouble = _input_trouble(magnitudes, unit, bits)
        if trouble is None:
            return []
        advice = []
        wider = range(bits + 1, _WIDEST_INPUT + 1)
        fine = (more for more in wider if _input_trouble(magnitudes, self._unit(magnitudes, more), more) is None)
        enough = next(fine, None)
        if enough is not None:
            advice.append(f"use input_bits={enough}")
        if self.method == "max" and _input_trouble(magnitudes, magnitudes.least_error_unit(bits), bits) is None:
            advice.append("use method 'percentile' or 'mse', which choose the step of least squared error")
        advice.append("take hot pixels and other outliers off the images")
        none = "" if enough else f"no input_bits up to {_WIDEST_INPUT} helps; "
        return [f"  the input: {trouble}; {none}{', or '.join(advice)}"]

    def _clipped(self, histogram: Histogram, bound: Bound | None, reached: float) -> ClippedReLU:
        """The activation with its threshold; who gets to so large a share of a bound has reached it."""
        if bound is None:
            threshold = self._threshold(histogram)
        elif bound.levels or (self.method not in _LEAST_ERROR and histogram.largest >= bound.value * reached):
            threshold = bound.value
        else:
            threshold = min(self._threshold(histogram), bound.value)
        share = histogram.share_from(threshold) if histogram.largest else 0.0
        return ClippedReLU(threshold, summary=ActivationSummary(histogram.largest, share), bound=bound)

    def _threshold(self, histogram: Histogram) -> float:
        if histogram.largest == 0:  # silent: any threshold will do, nothing ever reaches it
            return 1.0
        if self.method == "max":
            return histogram.largest
        below = self._percentile(histogram)
        if self.method == "percentile":
            return below
        best = histogram.least_error_threshold(self._dynamics())
        return best if self.method == "mse" else min(best, below)

    def _percentile(self, histogram: Histogram) -> float:
        # A very sparse layer can have its percentile at zero; then its rare activations are all that counts.
        return histogram.quantile(self.percentile / 100) or histogram.largest


def _round_input(graph: Graph, unit: float, bits: int) -> None:
    """Let the body read the images as integers of so many bits, each worth `unit`."""
    node, affine = normalised_images(graph)
    averages = graph.body(AverageFrames)
    graph.bypass_for(graph.body(), averages)  # the rounded input gives the mean itself
    quantized = QuantizedInput(unit, bits, affine, frames=bool(averages)).eval()
    if affine is None:
        graph.insert_after(graph.input(), QUANTIZED_INPUT, quantized)
    else:
        graph.replace(node, quantized)


def _without_data(graph: Graph, activations: list[Node]) -> dict[Node, Histogram]:
    moments = gaussian_moments(graph)
    histograms = {}
    for node in activations:
        histograms[node] = Histogram()
        samples = gaussian_samples(moments[node.all_input_nodes[0]])
        bound: Bound | None = getattr(graph[node], "bound", None)
        histograms[node].add(samples if bound is None else samples.clamp(max=bound.value))
    return histograms


def _layer_name(graph: Graph, node: Node) -> str:
    """The layer whose activations these are: the one with weights, or the sum, in front of the ReLU."""
    source = node.all_input_nodes[0]
    while source.op == "call_module" and not graph.is_a(source, nn.Conv2d, nn.Linear, Add):
        source = source.all_input_nodes[0]
    return graph.name(source)


def _input_trouble(magnitudes: Magnitudes, unit: float, bits: int) -> str | None:
    """What is wrong with an input of this step; `None`: nothing."""
    shares = magnitudes.shares(unit, bits)
    if shares.to_zero > LOST_SHARE:
        found = f"{shares.to_zero:.0%} of the numbers of the images that are not zero round to zero"
    elif shares.clipped > CLIPPED_SHARE:
        found = (
            f"{shares.clipped:.1%} of the numbers of the images that are not zero are clipped from more than "
            f"{FAR_BEYOND:g} times the range"
        )
    else:
        return None
    reach = unit * ((1 << (bits - 1)) - 1)
    return (
        f"{found}, at {bits} bits, which range from {-reach:.4g} to {reach:.4g}; half of them are below "
        f"{magnitudes.median():.4g}, the largest is {magnitudes.largest:.4g}"
    )


def _troubles(layer: str, summary: ActivationSummary, *, saturates: bool) -> list[str]:
    """What is wrong with a layer; `saturates`: it does so in the network, too, or it is best so."""
    if summary.largest == 0:
        return [f"  {layer} is silent: no activation above zero; it will never spike"]
    if summary.saturated_share > SATURATED_SHARE and not saturates:
        return [
            f"  {layer} is saturated: {summary.saturated_share:.0%} of its activations reach the threshold; "
            "use a higher percentile or method 'max'"
        ]
    return []
