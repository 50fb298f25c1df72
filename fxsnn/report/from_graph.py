"""The hardware report of a converted graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget, Read, Shape, estimated_cores, fit_layer, own_reset, reasons
from fxsnn.graph import Graph
from fxsnn.layers import Encode, Integers, SpikeAdd, SpikeAnyPool2d, SpikePool2d, Spiking, Synapses, geometry_of, pair
from fxsnn.numerics import Codebook, Dynamics
from fxsnn.report.activity import Activity
from fxsnn.report.report import LayerRow, Report, Summand

_RESET_NOTE = (
    "reset to zero throws away what a membrane had above its threshold and costs accuracy; "
    "use reset='subtraction' where the chip has it"
)


def report_of(
    graph: Graph,
    target: HardwareTarget,
    dynamics: Dynamics,
    activity: Activity | None = None,
    chosen: Sequence[str] | None = None,
) -> Report:
    """The report of a converted graph.

    Args:
        graph: with spiking layers.
        target: the chip.
        dynamics: T and reset.
        activity: what it does on images.
        chosen: layers of which the codes were chosen on data; `None`: nobody tried.
    """
    encode = next((module for node in graph.nodes(Encode) if isinstance(module := graph[node], Encode)), None)
    rows = _rows(graph, target, activity)
    tail = tuple(graph.name(node) for node in graph.tail() if node.op == "call_module" and node.target != "decode")
    widths = target.registers
    return Report(
        target=target.name,
        timesteps=dynamics.timesteps,
        reset=dynamics.reset,
        input_bits=encode.bits if encode else None,
        input_unit=encode.unit if encode else 1.0,
        layers=rows,
        tail=tail,
        notes=(
            *reasons((row.layer, row.why) for row in rows),
            *_about_resets(graph, target, dynamics),
            *_about_codes(chosen),
        ),
        core_inputs=target.core_inputs,
        threshold_register=(1, widths.range_of(widths.threshold)[1]),
        leak_register=widths.range_of(widths.leak),
        codebook_register=widths.range_of(widths.codebook),
        images=activity.images if activity else 0,
    )


def _about_codes(chosen: Sequence[str] | None) -> tuple[str, ...]:
    if chosen is None:
        return ()
    of = ", ".join(chosen) or "no layer"
    where = "on the calibration images (before any fine-tuning)"
    return (f"codes were chosen {where} in: {of}; elsewhere each weight is rounded by itself",)


def _about_resets(graph: Graph, target: HardwareTarget, dynamics: Dynamics) -> tuple[str, ...]:
    if dynamics.reset == "zero":
        return (_RESET_NOTE,)
    others = [graph.name(node) for node in graph.nodes(SpikeAnyPool2d)]
    return (own_reset(others, target.name),) if others else ()


def _rows(graph: Graph, target: HardwareTarget, activity: Activity | None) -> tuple[LayerRow, ...]:
    found: dict[str, LayerRow] = {}
    for node in graph.nodes(Integers):
        name, layer = graph.name(node), graph[node]
        if isinstance(layer, SpikeAdd):
            row = _sum_row(name, layer, _summands(graph, node, layer), found)
        else:
            row = _row(name, layer, target)
        seen = activity.layers[name] if activity else None
        found[name] = row = replace(row, activity=seen)
        if seen is not None and row.threshold and target.core_inputs is not None and target.core_outputs is not None:
            shape = Shape(_map_size(seen.size), seen.size[0], _reads(graph, node))
            found[name] = replace(row, cores=estimated_cores(shape, target.core_inputs, target.core_outputs))
    return tuple(found.values())


def _row(name: str, layer: Any, target: HardwareTarget) -> LayerRow:
    """Of a layer with weights, or of a pooling."""
    kernel, per_group, limit, why = None, None, None, ""
    bits: int = layer.bits  # before the class is narrowed: mypy takes attributes of a module for tensors
    if isinstance(layer, SpikePool2d):
        kernel = layer.window()
    else:
        fit, _ = fit_layer(target, bits, layer=name, **asdict(geometry_of(layer)))
        kernel, per_group, limit, why = fit.kernel_size, fit.in_channels, fit.limit, fit.why
    window = prod(kernel or (1, 1))
    fan_in = window * (per_group or 1)
    gain = _ends(layer.gain) if isinstance(layer, Synapses) else (int(layer.gain), int(layer.gain))
    book: Codebook | None = layer.codebook
    entries = [] if book is None else [level * one for level in (book.levels[0], book.levels[-1]) for one in gain]
    return LayerRow(
        layer=name,
        kind=type(layer).__name__,
        kernel_size=kernel,
        in_channels=per_group,
        out_channels=len(layer.step),
        bits=layer.bits or None,
        limit=limit,
        why=why,
        gain=gain,
        codebook=(min(entries), max(entries)) if entries else None,
        levels=None if book is None else book.levels,
        fan_in=fan_in,
        rows=fan_in * max(1, layer.bits),
        weight_memory=layer.codes.numel() * layer.bits if layer.bits else 0,
        **_neurons(layer),
    )


def _sum_row(name: str, layer: SpikeAdd, adds: tuple[Summand, ...], before: Mapping[str, LayerRow]) -> LayerRow:
    """Of a sum: what is added as it is takes a row and a synapse each; weighted inputs have rows of their own."""
    weighted = [before[one.name] for one in adds if one.error is None]
    own = [one.gain for one in adds if one.error is not None]
    gain = (min(low for low, _ in own), max(high for _, high in own)) if own else None
    return LayerRow(
        layer=name,
        kind=type(layer).__name__,
        kernel_size=None,
        in_channels=None,
        out_channels=len(layer.threshold),
        bits=None,
        limit=None,
        why="",
        gain=gain,
        codebook=gain,
        fan_in=len(own) + sum(row.fan_in for row in weighted),
        rows=len(own) + sum(row.rows for row in weighted),
        weight_memory=0,
        adds=adds,
        **_neurons(layer),
    )


def _neurons(layer: Any) -> dict[str, Any]:
    if not isinstance(layer, Spiking):
        return {"threshold": None, "leak": None, "spike_value": None}
    value = float(layer.spike_value.mean())
    return {"threshold": _ends(layer.threshold), "leak": _ends(layer.leak), "spike_value": value}


def _summands(graph: Graph, node: Node, layer: SpikeAdd) -> tuple[Summand, ...]:
    found = []
    for read, weight, real in zip(node.all_input_nodes, layer.weights, layer.real_weights, strict=True):
        synapses: Any = graph[read]
        if isinstance(synapses, Synapses):
            found.append(Summand(graph.name(read), _ends(synapses.gain), None))
            continue
        off = torch.where(real == 0, 0.0, (weight * layer.step / real - 1).abs())
        found.append(Summand(graph.name(read), _ends(weight), float(off.max())))
    return tuple(found)


def _ends(values: Tensor) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _map_size(size: tuple[int, ...]) -> tuple[int, int]:
    return (size[1], size[2]) if len(size) == 3 else (1, 1)


def _reads(graph: Graph, node: Node) -> tuple[Read, ...]:
    """What the estimate of cores needs to know of the inputs of a layer."""
    layer: Any = graph[node]
    one = (1, 1)
    if isinstance(layer, SpikeAdd):
        as_it_is = Read(one, one, one, 1, len(layer.threshold), 1)
        inputs = node.all_input_nodes
        return tuple(
            way for read in inputs for way in (_reads(graph, read) if graph.is_a(read, Synapses) else (as_it_is,))
        )
    bits: int = layer.bits
    if isinstance(layer, nn.Linear):
        return (Read(one, one, one, layer.in_features, 1, bits),)
    if isinstance(layer, nn.Conv2d):
        kernel, stride, dilation = map(pair, (layer.kernel_size, layer.stride, layer.dilation))
        return (Read(kernel, stride, dilation, layer.in_channels // layer.groups, layer.groups, bits),)
    down, across = layer.windows()
    stride, dilation = (down.stride, across.stride), (down.dilation, across.dilation)
    return (Read(layer.window(), stride, dilation, 1, len(layer.threshold), 1),)
