"""CheckLimits: every layer against the chip's limits, all violations in one report."""

from __future__ import annotations

from fxsnn.chip import Bits, FitReport, HardwareTarget, require_target
from fxsnn.errors import TargetError
from fxsnn.graph import Graph, fit
from fxsnn.rewriting import Pass, facts


class CheckLimits(Pass):
    """Hold every layer that would spike, and every sum, against the limits of a target; changes nothing.

    Args:
        target: the chip.
        bits: weight bits: a number, "auto", or a mapping from layers to numbers, see `convert`.
    """

    target: HardwareTarget
    bits: Bits

    needs = facts("canonical")
    gives = facts("within-limits")
    preserves = True

    def __post_init__(self) -> None:
        require_target(self.target)
        self.target.require_choice(self.bits)

    def rewrite(self, graph: Graph) -> None:
        """Raise a TargetError with the report, or leave `graph` as it is."""
        report = self.report(graph)
        if not report.fits:
            raise TargetError(report.problems, report)

    def report(self, graph: Graph) -> FitReport:
        """Every layer with its bits and its limit."""
        return fit(graph, self.target, self.bits)
