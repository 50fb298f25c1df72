"""QuantizeWeights: n-bit weights, still in float arithmetic and still trainable."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxsnn.chip import ALL_BITS, Bits, HardwareTarget, require_target, whole_number
from fxsnn.errors import OptionError
from fxsnn.graph import Graph, Weighted, fit
from fxsnn.layers import LowBitConv2d, LowBitLinear, input_shift, layer_like, through
from fxsnn.numerics import Codebook
from fxsnn.options import require_flag, shown
from fxsnn.rewriting import Pass, channel_units, facts, input_scales, require_not_spiking


class QuantizeWeights(Pass):
    """Every layer that is to spike gets n-bit weights; the tail keeps its own.

    Behind a concatenation, what spikes are worth differs between inputs; it goes into the weights before they are
    rounded, as far as thresholds are calibrated by then. A shift of the inputs that `MoveAffine` has made a part of a
    bias goes through the n-bit weights from then on.

    Args:
        bits: 1 to 4; with a target also "auto" or a mapping from layers to numbers, see `convert`.
        per_channel: one weight step per output channel, or one per layer. Steps are those of least squared error.
        target: gives the widest bits of each layer.
    """

    bits: Bits
    per_channel: bool = True
    target: HardwareTarget | None = None

    needs = facts("no-batch-norm")
    gives = facts("low-bit-weights")

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_channel", require_flag("per_channel", self.per_channel))
        if self.target is not None:
            require_target(self.target)
            self.target.require_choice(self.bits)
        elif whole_number(self.bits) not in ALL_BITS:
            raise OptionError(
                f"bits is {shown(self.bits)}; allowed are {', '.join(map(str, ALL_BITS))}, and more with target="
            )

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        require_not_spiking(graph)
        widths: dict[str, Any] = {graph.name(node): self.bits for node in graph.body(*Weighted)}
        if self.target is not None:
            widths = {row.layer: row.bits for row in fit(graph, self.target, self.bits).layers}
        scales = input_scales(graph, channel_units(graph))
        for node in graph.body(*Weighted):
            layer: Any = graph[node]
            low: LowBitConv2d | LowBitLinear
            low = layer_like(layer, LowBitConv2d, LowBitLinear)
            codebook = Codebook.symmetric(widths[graph.name(node)])
            low.quantize(codebook, per_channel=self.per_channel, input_scale=scales.get(node))
            if (shift := input_shift(layer)) is not None and low.bias is not None:
                moved = through(layer, shift, low.quantized_weight()) - through(layer, shift)
                low.bias = nn.Parameter((low.bias.detach().double() + moved).to(low.bias.dtype))
            graph.replace(node, low)
