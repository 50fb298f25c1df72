"""Spiking networks with tails of any kind, put behind the body of a converted network by hand."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import fxsnn
from fxsnn.layers import Decode
from tests.nets import images, seeded


def body() -> nn.Module:
    """3x12x12 to activations of 6x4x4."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU())


@functools.cache
def _converted() -> fxsnn.SpikingNetwork:
    return fxsnn.convert(
        seeded(body),
        target="generic",
        bits=4,
        timesteps=6,
        codebook="symmetric",  # version 1 of the file has words for it
        calibration_data=images(32),
        correction=None,
        engine="torch",
    )


def with_tail(tail: nn.Module, *, engine: str = "torch", timesteps: int = 6) -> fxsnn.SpikingNetwork:
    """A spiking network that ends with `tail`, a network that reads activations, or activations and images.

    Its layers and tensors must have names, not numbers.
    """
    graph = copy.deepcopy(_converted().graph)
    (decode,) = graph.nodes(Decode)
    program, output = fx.Tracer().trace(tail), graph.output()
    for name, module in tail.named_children():
        graph.module.add_module(name, module)
    for name, tensor in [*tail.named_parameters(recurse=False), *tail.named_buffers(recurse=False)]:
        setattr(graph.module, name, tensor)
    given = dict(zip(program.find_nodes(op="placeholder"), (decode, graph.input()), strict=False))
    with graph.module.graph.inserting_before(output):
        output.args = (graph.module.graph.graph_copy(program, given),)
    graph.module.recompile()
    snn = fxsnn.SpikingNetwork(graph, "generic", engine, image_size=(3, 12, 12))
    snn.timesteps = timesteps
    return snn


def activations(snn: fxsnn.SpikingNetwork, given: Tensor) -> Tensor:
    """What the tail reads for images, [N, 6, 4, 4], from the spikes of the last layer."""
    decode: Any = snn.graph[snn.graph.nodes(Decode)[0]]
    value: Tensor = decode.value(list(snn.count_spikes(given).values())[-1])
    return value


def alike(left: Any, right: Any) -> bool:
    """Whether two outputs have the same structure, and tensors that are the same to the bit."""
    (ours, structure), (theirs, other) = (pytree.tree_flatten(one) for one in (left, right))
    return structure == other and all(
        one.dtype == two.dtype and torch.equal(one, two) if isinstance(one, Tensor) else one == two
        for one, two in zip(ours, theirs, strict=True)
    )
