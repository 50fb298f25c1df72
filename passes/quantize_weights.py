"""QuantizeWeights: n-bit weights, still in float arithmetic and still trainable."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxsnn.errors import OptionError
from fxsnn.graph import Graph, Weighted
from fxsnn.layers import LowBitConv2d, LowBitLinear, conv_like, linear_like
from fxsnn.stages import Pass, facts
from fxsnn.target import ALL_BITS, whole_number


class QuantizeWeights(Pass):
    """Every layer that is to spike gets n-bit weights; the tail keeps its own.

    Args:
        bits: 1 to 4.
        per_channel: one weight step per output channel, or one per layer. Steps are those of least squared error.
    """

    bits: int
    per_channel: bool = True

    needs = facts("no-batch-norm")
    gives = facts("low-bit-weights")

    def __post_init__(self) -> None:
        if whole_number(self.bits) not in ALL_BITS:
            raise OptionError(f"bits is {self.bits!r}; allowed are {', '.join(map(str, ALL_BITS))}")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(*Weighted):
            layer: Any = graph[node]
            low: LowBitConv2d | LowBitLinear
            low = conv_like(LowBitConv2d, layer) if isinstance(layer, nn.Conv2d) else linear_like(LowBitLinear, layer)
            low.quantize(int(self.bits), per_channel=self.per_channel)
            graph.replace(node, low)
