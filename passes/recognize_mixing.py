"""RecognizeMixing: what computes each pixel from the channels of that pixel of the images is a convolution of 1x1."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.graph import Graph, Transposed, Weighted
from fxsnn.layers import Affine, FixedSize
from fxsnn.rewriting import Pass, affine_of, facts, fix_size

_LAYERS = (*Weighted, *Transposed, nn.Conv1d)
_NEAR = 1e-9
"""Two numbers are the same if they differ by less, relative to the largest."""


class RecognizeMixing(Pass):
    """Grey values, channels in another order, repeated or taken out, and each channel scaled and shifted by itself.

    However that is written in front of the first layers: with slices and `torch.cat` or `torch.stack`, with `expand`,
    in place. It is told by what it does to known numbers, in double precision, where the size of images is known:
    `y = A x + b` for each pixel. Where A has a diagonal only, that is an `Affine`; else a convolution of 1x1 with the
    weights A, in front of which stands an `Affine` with the shift t, if A t = b. `MergeLinear` makes one layer of that
    and the first one, so that it costs nothing.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        ...
        ...     def forward(self, x):
        ...         return self.relu(self.conv(x[:, [2, 1, 0]]))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> print(RecognizeMixing()(fxsnn.capture(Net(), images), images).after.text(hashes=False))
        name    calls                                                        reads   tensors
        ------  -----------------------------------------------------------  ------  -------
        x       placeholder
        mixing  Conv2d(3, 3, kernel_size=(1, 1), stride=(1, 1), bias=False)  x
        conv    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))              mixing
        relu    ReLU()                                                       conv
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        inputs = [node for node in graph if node.op == "placeholder"]
        if len(inputs) != 1 or graph.image_size is None or len(graph.image_size) not in (2, 3):
            return
        found = _in_front(graph)
        if found is None:
            return
        end, region = found
        if all(node.op == "get_attr" or affine_of(graph, node) is not None for node in region):
            return  # RecognizeAffine sees that
        run = _program(graph, end, region)
        channels, *sides = graph.image_size
        line = _line(run, channels, sides)
        if line is None:
            return
        larger = _line(run, channels, [side + 1 + place for place, side in enumerate(sides)])
        _put(graph, end, region, *line)
        if larger is None or not all(map(torch.equal, line, larger)):
            fix_size(graph)


def _images(graph: Graph) -> Node:
    """The images, of whose size the graph may be sure already."""
    return next(iter(graph.nodes(FixedSize)), graph.input())


def _in_front(graph: Graph) -> tuple[Node, set[Node]] | None:
    """The value that the first layers read, and all that is computed for it; `None`: they read the images, or several.

    Nothing else reads what is computed on the way.
    """
    images = _images(graph)
    ends = {node.all_input_nodes[0] for node in graph.nodes(*_LAYERS) if _stands_first(graph, node)}
    if len(ends) != 1 or images in ends:
        return None
    (end,) = ends
    region = {end, *graph.ancestors(end)} - {images, *graph.ancestors(images)}
    inner = [node for node in region if node is not end and node.op != "get_attr"]
    return (end, region) if all(set(node.users) <= region for node in inner) else None


def _stands_first(graph: Graph, node: Node) -> bool:
    """Whether no other layer with weights stands between a layer and the images."""
    before = graph.ancestors(node)
    return graph.input() in before and not any(graph.is_a(one, *_LAYERS) for one in before)


def _program(graph: Graph, end: Node, region: set[Node]) -> Callable[[Tensor], Any]:
    """What is computed of the images, as a function in double precision."""
    part = fx.Graph()
    copies = {_images(graph): part.placeholder("images")}
    for node in graph:
        if node in region:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[end])
    program = copy.deepcopy(fx.GraphModule(graph.module, part)).double()
    return lambda images: program.forward(images)


def _line(run: Callable[[Tensor], Any], channels: int, sides: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """A [C', C] and b [C'] with `y = A x + b` for each pixel; `None`: it does something else."""
    ones, kind = [1] * len(sides), torch.float64
    noise = torch.randn(3, channels, *sides, dtype=kind, generator=torch.Generator().manual_seed(0))
    units = torch.eye(channels, dtype=kind).view(channels, channels, *ones).expand(-1, -1, *sides)
    try:
        with torch.no_grad():
            of_zero, of_units, of_noise = (run(one.clone()) for one in (torch.zeros_like(noise[:1]), units, noise))
        shift = of_zero[0].flatten(1)[:, 0]
        weight = of_units.flatten(2)[:, :, 0].T - shift[:, None]
        expected = torch.einsum("oc,nc...->no...", weight, noise) + shift.view(-1, *ones)
        near = expected.shape == of_noise.shape and bool(
            (expected - of_noise).abs().max() <= _NEAR * of_noise.abs().max()
        )
    except Exception:  # it is made for other images
        return None
    return (weight, shift) if near else None


def _put(graph: Graph, end: Node, region: set[Node], weight: Tensor, shift: Tensor) -> None:
    """Let modules do what a region does."""
    source, readers = _images(graph), [user for user in end.users if user not in region]
    shifts = bool(shift.any())
    square = weight.shape[0] == weight.shape[1]
    steps: list[nn.Module] = []
    if square and torch.equal(weight, weight.diagonal().diag()):
        scaled = shifts or bool((weight.diagonal() != 1).any())
        steps += [Affine(weight.diagonal().contiguous(), shift, shifts=shifts)] if scaled else []
    else:
        before = torch.linalg.lstsq(weight, shift[:, None]).solution[:, 0] if shifts else shift
        inside = shifts and torch.allclose(weight @ before, shift, rtol=0, atol=_NEAR * float(shift.abs().max()))
        if inside:
            steps.append(Affine(torch.ones_like(before), before))
        steps.append(_convolution(weight, shift if shifts and not inside else None, len(graph.image_size or ()), graph))
    value = source
    for step in steps:
        value = graph.call_before(end, "mixing", step.eval(), [value])
    for reader in readers:
        reader.replace_input_with(end, value)
    for node in reversed(graph.nodes()):
        if node in region and not node.users:
            graph.module.graph.erase_node(node)


def _convolution(weight: Tensor, bias: Tensor | None, rank: int, graph: Graph) -> nn.Module:
    """A convolution of one pixel, of signals or of maps."""
    kind: Any = nn.Conv1d if rank == 2 else nn.Conv2d
    new = kind(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    ones = [1] * (rank - 1)
    new.weight = nn.Parameter(weight.view(*weight.shape, *ones).to(graph.dtype), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.to(graph.dtype), requires_grad=False)
    layer: nn.Module = new
    return layer
