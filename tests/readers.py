"""Simulators that read NIR, and what must be said to each so that it computes what the chip does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pytest
import torch
from torch import Tensor

Trains = list[Tensor]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _without_their_warnings(run: Callable[_P, _R]) -> Callable[_P, _R]:
    """What simulators say about PyTorch and themselves is not our business."""

    @wraps(run)
    def quiet(*given: _P.args, **options: _P.kwargs) -> _R:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(*given, **options)

    return quiet


def in_order(network: Any) -> None:
    """Tell nirtorch to run nodes in the order of their names, so that all that a node adds up is there.

    Its own order is depth first: of a node with several inputs it takes the others from the step before, or leaves them
    out.
    """
    network.execution_order.sort(key=lambda node: node.name)


@_without_their_warnings
def run_norse(graph: Any, x: Tensor, timesteps: int, *, ordered: bool = False) -> tuple[Trains, Tensor]:
    """Spikes of each layer and the output, [T, N, ...]; norse as it is: reset to zero, from 0."""
    norse = pytest.importorskip("norse.torch")
    from norse.torch.module.iaf import IAFCell

    network = norse.from_nir(graph)
    if ordered:
        in_order(network)
    trains: dict[int, Trains] = {}
    for node in network.execution_order:
        if isinstance(node.elem, IAFCell):
            own = trains.setdefault(len(trains), [])
            node.elem.register_forward_hook(lambda _, __, out, own=own: own.append(out[0]))
    state, outputs = None, []
    with torch.no_grad():
        for _ in range(timesteps):
            out, state = network(x, state)
            outputs.append(out)
    return [torch.stack(train) for train in trains.values()], torch.stack(outputs)


@_without_their_warnings
def run_sinabs(
    graph: Any,
    x: Tensor,
    timesteps: int,
    reset: str | None,
    start: list[Tensor] | None = None,
    *,
    ordered: bool = False,
) -> tuple[Trains, Tensor]:
    """The same for one image of sinabs, told to spike once a step, not to clip membranes, and how to reset.

    Args:
        graph: the NIR graph.
        x: [1, ...].
        timesteps: T.
        reset: "subtraction" or "zero"; `None` leaves sinabs as it is.
        start: membranes at the start, for each layer.
        ordered: tell it in which order to run; see `in_order`.
    """
    activation = pytest.importorskip("sinabs.activation")
    import sinabs.layers as layers
    from sinabs.nir import from_nir

    network = from_nir(graph, batch_size=1)
    if ordered:
        in_order(network)
    neurons = [node.elem for node in network.execution_order if isinstance(node.elem, layers.IAFSqueeze)]
    trains: dict[int, Trains] = {place: [] for place in range(len(neurons))}
    for place, layer in enumerate(neurons):
        if reset is not None:
            layer.spike_fn, layer.min_v_mem = activation.SingleSpike, None
            layer.reset_fn = activation.MembraneSubtract() if reset == "subtraction" else activation.MembraneReset()
        layer.register_forward_hook(lambda _, __, out, own=trains[place]: own.append(out))
    with torch.no_grad():
        if start is not None:
            network(torch.zeros_like(x))
            for layer, membrane in zip(neurons, start, strict=True):
                layer.v_mem = membrane.expand(layer.v_mem.shape).clone()
            for train in trains.values():
                train.clear()
        out, _ = network(x.expand(timesteps, *x.shape[1:]))
    return [train[0].unsqueeze(1) for train in trains.values()], out.unsqueeze(1)
