"""How a graph fits a target: weight bits of each layer, and the limits of the chip."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxsnn.errors import OptionError
from fxsnn.graph import Graph, Weighted
from fxsnn.target import Bits, FitReport, HardwareTarget, fit_layer


def fit(graph: Graph, target: HardwareTarget, bits: Bits) -> FitReport:
    """Every layer of the body with its weight bits and its limit.

    Args:
        graph: a network in canonical form.
        target: the chip.
        bits: see `fxsnn.target.Bits`.

    Raises:
        OptionError: bits that the target does not know, or a layer that there is not.
    """
    choice = target.require_choice(bits)
    # A layer that is called twice is one row here; CheckConvRelu speaks about the sharing.
    nodes = {graph.name(node): node for node in reversed(graph.body(*Weighted))}
    if isinstance(choice, Mapping):
        _require_layers(choice, list(nodes)[::-1])
    layers, violations = [], []
    for name, node in nodes.items():
        layer: Any = graph[node]
        convolution = isinstance(layer, nn.Conv2d)
        kernel_size = layer.kernel_size if convolution else None
        in_channels = layer.in_channels if convolution else layer.in_features
        groups = layer.groups if convolution else 1
        row, violation = fit_layer(
            target,
            target.bits_of(name, choice, kernel_size, in_channels // groups),
            layer=name,
            kind="Conv2d" if convolution else "Linear",
            kernel_size=kernel_size,
            in_channels=in_channels,
            out_channels=layer.out_channels if convolution else layer.out_features,
            groups=groups,
            source=graph.source(node),
        )
        layers.append(row)
        if violation is not None:
            violations.append(violation)
    return FitReport(target.name, choice, tuple(layers[::-1]), tuple(violations[::-1]))


def _require_layers(choice: Mapping[str, int], names: list[str]) -> None:
    unknown = [name for name in choice if name not in names]
    if unknown:
        close = [match for name in unknown for match in difflib.get_close_matches(name, names, 1)]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise OptionError(
            f"bits names {', '.join(map(repr, unknown))}; the layers that spike are {', '.join(map(repr, names))}{hint}"
        )
