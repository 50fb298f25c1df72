"""The hardware report of a converted graph."""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import Any

from torch import nn

from fxsnn.chip import HardwareTarget, Shape, estimated_cores, fit_layer, reasons
from fxsnn.graph import Graph
from fxsnn.layers import Encode, SpikeAvgPool2d, Spiking, geometry_of, pair
from fxsnn.numerics import Dynamics, largest_code
from fxsnn.report.activity import Activity
from fxsnn.report.report import LayerRow, Report

_RESET_NOTE = (
    "reset to zero throws away what a membrane had above its threshold and costs accuracy; "
    "use reset='subtraction' where the chip has it"
)


def report_of(graph: Graph, target: HardwareTarget, dynamics: Dynamics, activity: Activity | None = None) -> Report:
    """The report of a converted graph.

    Args:
        graph: with spiking layers.
        target: the chip.
        dynamics: T and reset.
        activity: what it does on images.
    """
    encode = next((module for node in graph.nodes(Encode) if isinstance(module := graph[node], Encode)), None)
    rows = tuple(_row(graph.name(node), graph[node], target, activity) for node in graph.nodes(Spiking))
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
        notes=(*reasons((row.layer, row.why) for row in rows), *((_RESET_NOTE,) if dynamics.reset == "zero" else ())),
        core_inputs=target.core_inputs,
        threshold_register=(1, widths.range_of(widths.threshold)[1]),
        leak_register=widths.range_of(widths.leak),
        codebook_register=widths.range_of(widths.codebook),
        images=activity.images if activity else 0,
    )


def _row(name: str, layer: Any, target: HardwareTarget, activity: Activity | None) -> LayerRow:
    kernel, per_group, limit, why = None, None, None, ""
    bits: int = layer.bits  # before the class is narrowed: mypy takes attributes of a module for tensors
    if isinstance(layer, SpikeAvgPool2d):
        kernel = layer.window()
    else:
        fit, _ = fit_layer(target, bits, layer=name, **asdict(geometry_of(layer)))
        kernel, per_group, limit, why = fit.kernel_size, fit.in_channels, fit.limit, fit.why
    window = prod(kernel or (1, 1))
    fan_in = window * (per_group or 1)
    top = largest_code(layer.bits) * layer.gain if layer.bits else 0
    seen = activity.layers[name] if activity else None
    cores = None
    if seen is not None and target.core_inputs is not None and target.core_outputs is not None:
        cores = estimated_cores(_shape(layer, seen.size), target.core_inputs, target.core_outputs)
    return LayerRow(
        layer=name,
        kind=type(layer).__name__,
        kernel_size=kernel,
        in_channels=per_group,
        out_channels=len(layer.threshold),
        bits=layer.bits or None,
        limit=limit,
        why=why,
        gain=layer.gain,
        threshold=(int(layer.threshold.min()), int(layer.threshold.max())),
        leak=(int(layer.leak.min()), int(layer.leak.max())),
        codebook=(-top, top) if layer.bits else None,
        spike_value=float(layer.spike_value.mean()),
        fan_in=fan_in,
        rows=fan_in * max(1, layer.bits),
        weight_memory=layer.codes.numel() * layer.bits if layer.bits else 0,
        cores=cores,
        activity=seen,
    )


def _shape(layer: Any, size: tuple[int, ...]) -> Shape:
    """What the estimate of cores needs of a layer whose output has a size."""
    bits: int = layer.bits
    if isinstance(layer, nn.Linear):
        return Shape((1, 1), (1, 1), (1, 1), (1, 1), layer.in_features, layer.out_features, 1, bits)
    out_size = (size[1], size[2])
    if isinstance(layer, nn.Conv2d):
        kernel, stride, dilation = map(pair, (layer.kernel_size, layer.stride, layer.dilation))
        groups = layer.groups
        inputs, outputs = layer.in_channels // groups, layer.out_channels // groups
        return Shape(out_size, kernel, stride, dilation, inputs, outputs, groups, bits)
    return Shape(out_size, layer.window(), pair(layer.stride), (1, 1), 1, 1, size[0], 1)
