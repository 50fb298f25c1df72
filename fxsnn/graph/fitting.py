"""How a graph fits a target: weight bits of each layer, and the limits of the chip."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.chip import Bits, FitReport, HardwareTarget, Violation, fit_layer, own_reset
from fxsnn.errors import Finding, OptionError
from fxsnn.graph.body import meant_to_spike
from fxsnn.graph.graph import Graph
from fxsnn.graph.kinds import Weighted
from fxsnn.layers import Add, AnyPool2d, BoundedReLU, Concat, geometry_of


def fit(graph: Graph, target: HardwareTarget, bits: Bits) -> FitReport:
    """Every layer that is meant to spike, with its weight bits and its limit.

    Args:
        graph: a network in canonical form.
        target: the chip.
        bits: see `fxsnn.chip.Bits`.

    Raises:
        OptionError: bits that the target does not know, or a layer that there is not.
    """
    choice = target.require_choice(bits)
    # A layer that is called twice is one row here; CheckConvRelu speaks about the sharing.
    meant = meant_to_spike(graph.module)
    nodes = {graph.name(node): node for node in reversed(graph.nodes(*Weighted)) if node in meant}
    if isinstance(choice, Mapping):
        _require_layers(choice, list(nodes)[::-1])
    layers, violations = [], []
    for name, node in nodes.items():
        layer: Any = graph[node]
        geometry = geometry_of(layer)
        width = target.bits_of(name, choice, geometry.kernel_size, geometry.fan_in_channels)
        row, violation = fit_layer(target, width, layer=name, source=graph.source(node), **asdict(geometry))
        layers.append(row)
        if violation is not None:
            violations.append(_explained(violation, layer))
    tail = tuple(dict.fromkeys(graph.name(node) for node in graph.nodes(*Weighted) if node not in meant))
    joins = tuple(_joins(graph, target, meant))
    any_pools = [graph.name(node) for node in graph.nodes(AnyPool2d) if node in meant]
    return FitReport(
        target.name,
        choice,
        tuple(layers[::-1]),
        tuple(violations[::-1]),
        tail=tail,
        joins=joins,
        assumed=(own_reset(any_pools, target.name),) if any_pools else (),
    )


def _joins(graph: Graph, target: HardwareTarget, meant: set[Node]) -> Iterator[Finding]:
    """Sums and concatenations that the target cannot do."""
    named = "layers with weights and average poolings" + (", and their concatenation" if target.joins else "")
    for node in graph.nodes(Add, Concat):
        if node not in meant:
            continue
        if graph.is_a(node, Add) and "add" not in target.joins:
            remedy = "Concatenate instead of adding (torch.cat)" if "concatenate" in target.joins else "Leave it out"
            remedy = f'{remedy}, and train again, or convert for a target with sums, such as "generic"'
            does = "adds up several layers"
            if len(node.all_input_nodes) == 1:
                does = "scales and shifts each channel, which no layer beside it can take in"
                remedy = 'Put it in front of the ReLU, directly behind the layer, or use a target such as "generic"'
            behind = graph.sole_user(node)
            if len(node.all_input_nodes) == 1 and graph.is_a(behind, BoundedReLU) and graph[node].is_plain:
                does = "takes neurons to clip what other activations were made to"
                remedy = 'Train it with the clip in place of the ReLU before it, or use a target such as "generic"'
            yield graph.finding(node, f"it {does}; {target.name} has neurons of {named} only", remedy)
        elif graph.is_a(node, Concat) and "concatenate" not in target.joins:
            problem = f"it concatenates several layers; {target.name} has layers that read one other only"
            yield graph.finding(node, problem, 'Make it a chain of layers, or use a target such as "generic"')


def _explained(violation: Violation, layer: nn.Module) -> Violation:
    """A violation by a layer that is not as the user wrote it."""
    parts, read = getattr(layer, "made_of", ()), getattr(layer, "reads_signs_of", None)
    told = f" ({', '.join(parts[:-1])} and {parts[-1]} are one layer: there is no ReLU between them)" if parts else ""
    if read is not None:
        told += f" (it reads {read} twice, once for each sign)"
    found = violation.finding
    return replace(violation, finding=replace(found, problem=found.problem + told))


def _require_layers(choice: Mapping[str, int], names: list[str]) -> None:
    unknown = [name for name in choice if name not in names]
    if unknown:
        close = [match for name in unknown for match in difflib.get_close_matches(name, names, 1)]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise OptionError(
            f"bits names {', '.join(map(repr, unknown))}; the layers that spike are {', '.join(map(repr, names))}{hint}"
        )
