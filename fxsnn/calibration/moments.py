"""Ranges of activations without data: Gaussian moments of every channel, carried through the network.

Images are taken as noise of mean 0 and variance 1, which is what normalised images have. Each node gets a mean and a
variance per channel:

* behind a scale and shift of the images, those of images again: it normalises them;
* behind a batch norm, folded or not, its shift and the square of its scale: no assumption about what came before;
* behind a convolution or fully connected layer, the moments of a weighted sum. Neighbouring pixels of images are alike,
  so a kernel's taps on one channel are taken as fully correlated, different channels as independent;
* behind a sum, those of a sum of independent numbers;
* behind a ReLU, the moments of a rectified Gaussian (Frey and Hinton 1999, eq. 7 and 8); behind one with an upper end,
  those of the difference of two;
* behind an average pooling, and one of maxima, those of its input, again because neighbours are alike.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import Finding, ModelError
from fxsnn.graph import Activation, Graph, Norm, Pooling
from fxsnn.layers import (
    Add,
    Affine,
    AverageFrames,
    BoundedReLU,
    FixedSize,
    FoldedConv2d,
    FoldedLinear,
    Lift,
    Spread,
    Wiring,
)

INPUT_DEVIATIONS = 4.0
"""Without data, images are taken to lie within this many standard deviations of zero."""

_SAMPLES = 4096


class Moments(NamedTuple):
    """Mean and variance of each channel, [C] in float64."""

    mean: Tensor
    variance: Tensor


def gaussian_moments(graph: Graph) -> dict[Node, Moments]:
    """Moments of the output of every node of the body.

    Raises:
        ModelError: a layer is of a kind that moments cannot be carried through.
    """
    channels = graph.input_channels
    found: dict[Node, Moments] = {}
    ones = torch.ones(channels or 1, dtype=torch.float64, device=graph.device)
    found[graph.input()] = Moments(ones * 0, ones)
    for node in graph.body():
        if node.op == "placeholder":
            continue
        if node.op != "call_module":  # sizes that a view reads
            continue
        for source in node.all_input_nodes:
            if source not in found:
                raise ModelError([_unknown(graph, source, graph.name(source))])
        layer: Any = graph[node]
        inputs = [found[source] for source in graph.inputs(node)]
        if isinstance(layer, Add):
            found[node] = _added(layer, inputs)
        elif isinstance(layer, Wiring):
            means, variances = zip(*inputs, strict=True)
            moved = Moments(layer.of_channels(means), layer.of_channels(variances))
            found[node] = _spread(layer, moved) if isinstance(layer, Spread) else moved
        else:
            found[node] = _through(graph, node, inputs[0])
    return found


def _spread(layer: Spread, source: Moments) -> Moments:
    """With the zeros that are put between."""
    share = 1 / (layer.down * layer.across)
    square = source.variance + source.mean.square()
    return Moments(source.mean * share, square * share - (source.mean * share).square())


def _added(layer: Add, inputs: list[Moments]) -> Moments:
    mean, variance = layer.shift, torch.zeros_like(layer.shift)
    for factor, one in zip(layer.factor, inputs, strict=True):
        mean, variance = mean + factor * one.mean, variance + factor.square() * one.variance
    return Moments(mean, variance)


def _unknown(graph: Graph, node: Node, what: str) -> Finding:
    remedy = "Pass calibration_data, or run Canonicalize and CheckConvRelu first"
    return graph.finding(node, f"the range behind {what} cannot be found without data", remedy)


def _through(graph: Graph, node: Node, source: Moments) -> Moments:
    layer: Any = graph[node]
    if isinstance(layer, FoldedConv2d | FoldedLinear):
        return Moments(layer.channel_mean.double(), layer.channel_deviation.double().square())
    if isinstance(layer, Norm):
        like = source.mean
        shift = layer.bias.detach().double() if layer.bias is not None else torch.zeros_like(like)
        scale = layer.weight.detach().double() if layer.weight is not None else torch.ones_like(like)
        return Moments(shift, scale.square())
    if isinstance(layer, nn.Conv2d):
        return _convolved(layer, source)
    if isinstance(layer, nn.Linear):
        return _multiplied(layer, source)
    if isinstance(layer, BoundedReLU):
        return clipped(source, layer.bound.value)
    if isinstance(layer, Activation):
        return rectified(source)
    if isinstance(layer, (*Pooling, nn.Flatten, AverageFrames, FixedSize, Lift, Affine)):
        return source
    raise ModelError([_unknown(graph, node, type(layer).__name__)])


def _convolved(layer: nn.Conv2d, source: Moments) -> Moments:
    taps = layer.weight.detach().double().flatten(2).sum(2)  # [out, in / groups]
    groups, per_group = layer.groups, taps.shape[1]
    mean, variance = (part.view(groups, per_group) for part in source)
    grouped = taps.view(groups, -1, per_group)
    out_mean = torch.einsum("goi,gi->go", grouped, mean).reshape(-1)
    energy = layer.weight.detach().double().square().flatten(2).sum(2).view(groups, -1, per_group)
    # Taps that cancel (an edge detector) leave no correlated part; the independent part is then the larger one.
    out_variance = torch.einsum("goi,gi->go", torch.maximum(grouped.square(), energy), variance).reshape(-1)
    return _with_bias(out_mean, out_variance, layer.bias)


def _multiplied(layer: nn.Linear, source: Moments) -> Moments:
    weight = layer.weight.detach().double()
    repeats, rest = divmod(weight.shape[1], len(source.mean))
    if rest:  # a flattened map of an unknown number of channels: only the images, which all have the same moments
        repeats, source = weight.shape[1], Moments(source.mean[:1], source.variance[:1])
    mean, variance = (part.repeat_interleave(repeats) for part in source)
    return _with_bias(weight @ mean, weight.square() @ variance, layer.bias)


def _with_bias(mean: Tensor, variance: Tensor, bias: Tensor | None) -> Moments:
    return Moments(mean if bias is None else mean + bias.detach().double(), variance)


def rectified(source: Moments) -> Moments:
    """Moments of `max(x, 0)` for Gaussian x (Frey and Hinton 1999, eq. 7 and 8)."""
    mean, square = _rectified(source)
    return Moments(mean, (square - mean.square()).clamp_min(0))


def clipped(source: Moments, top: float) -> Moments:
    """Moments of `min(max(x, 0), top)` for Gaussian x: that is `max(x, 0) - max(x - top, 0)`."""
    mean, square = _rectified(source)
    beyond, beyond_square = _rectified(Moments(source.mean - top, source.variance))
    mean, square = mean - beyond, square - beyond_square - 2 * top * beyond
    return Moments(mean, (square - mean.square()).clamp_min(0))


def _rectified(source: Moments) -> tuple[Tensor, Tensor]:
    """Mean and mean square of `max(x, 0)` for Gaussian x."""
    deviation = source.variance.sqrt().clamp_min(1e-12)
    ratio = source.mean / deviation
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(ratio)
    mean = source.mean * share + deviation * density
    return mean, (source.mean.square() + source.variance) * share + source.mean * deviation * density


def gaussian_samples(source: Moments) -> Tensor:
    """Evenly spaced quantiles of each channel's Gaussian, [C, samples]: a distribution without drawing a number."""
    shares = (torch.arange(_SAMPLES, dtype=torch.float64, device=source.mean.device) + 0.5) / _SAMPLES
    return source.mean[:, None] + source.variance.sqrt()[:, None] * torch.special.ndtri(shares)
