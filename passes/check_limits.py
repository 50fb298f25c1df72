"""CheckLimits: every layer against the chip's limits, all violations in one report."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxsnn.errors import TargetError
from fxsnn.graph import Graph, Weighted
from fxsnn.stages import Pass, facts
from fxsnn.target import FitReport, HardwareTarget, fit_layer


class CheckLimits(Pass):
    """Hold every layer that would spike against the limits of a target; changes nothing.

    Args:
        target: the chip.
        bits: weight bits.
    """

    target: HardwareTarget
    bits: int

    needs = facts("canonical")
    gives = facts("within-limits")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Raise a TargetError with the report, or leave `graph` as it is."""
        report = self.report(graph)
        if report.violations:
            raise TargetError(report.problems, report)

    def report(self, graph: Graph) -> FitReport:
        """Every layer with its limit."""
        bits = self.target.require_bits(self.bits)
        layers, violations = [], []
        # A layer that is called twice is one row here; CheckConvRelu speaks about the sharing.
        for node in {node.target: node for node in reversed(graph.body(*Weighted))}.values():
            layer: Any = graph[node]
            convolution = isinstance(layer, nn.Conv2d)
            fit, violation = fit_layer(
                self.target,
                bits,
                layer=graph.name(node),
                kind="Conv2d" if convolution else "Linear",
                kernel_size=layer.kernel_size if convolution else None,
                in_channels=layer.in_channels if convolution else layer.in_features,
                out_channels=layer.out_channels if convolution else layer.out_features,
                groups=layer.groups if convolution else 1,
                source=graph.source(node),
            )
            layers.append(fit)
            if violation is not None:
                violations.append(violation)
        return FitReport(self.target.name, bits, tuple(layers[::-1]), tuple(violations[::-1]))
