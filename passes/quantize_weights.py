"""QuantizeWeights: n-bit weights, still in float arithmetic and still trainable."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxsnn.chip import ALL_BITS, CODEBOOKS, Bits, HardwareTarget, require_target, whole_number
from fxsnn.errors import OptionError
from fxsnn.graph import Graph, Weighted, fit
from fxsnn.layers import LowBitConv2d, LowBitLinear, input_shift, layer_like, remember_input_shift, through
from fxsnn.options import is_one_of, require_flag, shown
from fxsnn.rewriting import Pass, channel_units, facts, input_scales, require_not_spiking


class QuantizeWeights(Pass):
    """Every layer that is to spike gets n-bit weights; the tail keeps its own.

    Behind a concatenation, what spikes are worth differs between inputs; it goes into the weights before they are
    rounded, as far as thresholds are calibrated by then. A shift of the inputs that `MoveAffine` has made a part of a
    bias goes through the n-bit weights from then on.

    Args:
        bits: 1 to 4; with a target also "auto" or a mapping from layers to numbers, see `convert`.
        per_channel: one weight step per output channel, or one per layer. Steps are those of least squared error.
        target: gives the widest bits of each layer, and the codebooks that there are.
        codebook: what the levels of the weights may be, one of `fxsnn.chip.CODEBOOKS`; with a target also "auto", all
            that it has. Each layer gets the one of least squared error.
    """

    bits: Bits
    per_channel: bool = True
    target: HardwareTarget | None = None
    codebook: str = CODEBOOKS[0]

    needs = facts("no-batch-norm")
    gives = facts("low-bit-weights")

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_channel", require_flag("per_channel", self.per_channel))
        if self.target is not None:
            require_target(self.target)
            self.target.require_choice(self.bits)
            self.target.require_codebook(self.codebook)
        elif whole_number(self.bits) not in ALL_BITS:
            raise OptionError(
                f"bits is {shown(self.bits)}; allowed are {', '.join(map(str, ALL_BITS))}, and more with target="
            )
        elif not is_one_of(self.codebook, CODEBOOKS):
            allowed = ", ".join(map(repr, CODEBOOKS))
            raise OptionError(f"codebook is {shown(self.codebook)}; allowed are {allowed}, and 'auto' with target=")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        require_not_spiking(graph)
        widths: dict[str, Any] = {graph.name(node): self.bits for node in graph.body(*Weighted)}
        if self.target is not None:
            widths = {row.layer: row.bits for row in fit(graph, self.target, self.bits).layers}
        kind = self.codebook if self.target is None else self.target.require_codebook(self.codebook)
        scales = input_scales(graph, channel_units(graph))
        for node in graph.body(*Weighted):
            layer: Any = graph[node]
            low: LowBitConv2d | LowBitLinear
            low = layer_like(layer, LowBitConv2d, LowBitLinear)
            low.quantize(widths[graph.name(node)], kind, per_channel=self.per_channel, input_scale=scales.get(node))
            remember_input_shift(low, input_shift(layer))
            if (shift := input_shift(layer)) is not None and low.bias is not None:
                moved = through(layer, shift, low.quantized_weight()) - through(layer, shift)
                low.bias = nn.Parameter((low.bias.detach().double() + moved).to(low.bias.dtype))
            graph.replace(node, low)
