"""n-bit weights in every layer that is to spike, and in no other."""

from __future__ import annotations

import pytest
import torch

import fxsnn
from fxsnn import HardwareTarget
from fxsnn.chip import CODEBOOKS
from fxsnn.errors import OptionError
from fxsnn.layers import LowBitConv2d, LowBitLinear
from fxsnn.numerics import Codebook
from fxsnn.numerics.codebook_families import codebooks_of
from fxsnn.passes import FoldBatchNorm, QuantizeWeights
from tests.nets import Small, images, seeded

GRAPH = FoldBatchNorm()(fxsnn.capture(seeded(Small))).after


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weights_lie_on_the_grid_of_their_bits(bits: int) -> None:
    graph = QuantizeWeights(bits)(GRAPH).after
    for node in graph.nodes(LowBitConv2d, LowBitLinear):
        layer = graph[node]
        assert isinstance(layer, LowBitConv2d | LowBitLinear)
        grid = layer.quantized_weight() / layer.step.view(-1, *[1] * (layer.weight.dim() - 1))
        codes = layer.codes()
        assert codes.dtype == torch.int8
        torch.testing.assert_close(grid, codes.float())
        assert int(codes.abs().max()) <= Codebook.symmetric(bits).largest
        assert bits > 1 or not bool((codes == 0).any())


def test_the_tail_keeps_its_weights() -> None:
    graph = QuantizeWeights(2)(GRAPH).after
    assert type(graph["fc"]) is torch.nn.Linear
    assert graph["fc"].weight is GRAPH["fc"].weight


def test_steps_per_channel_or_per_layer() -> None:
    def steps(per_channel: bool) -> int:
        layer = QuantizeWeights(2, per_channel)(GRAPH).after["conv1"]
        assert isinstance(layer, LowBitConv2d)
        return len(layer.step)

    assert (steps(True), steps(False)) == (8, 1)


def test_more_bits_move_the_output_less() -> None:
    drifts = [QuantizeWeights(bits)(GRAPH).drift(images(32)) for bits in (2, 3, 4)]
    assert drifts[0] > drifts[1] > drifts[2]


@pytest.mark.parametrize("bits", [0, 5, "two", 2.0, True, None])
def test_other_bits_are_refused(bits: object) -> None:
    with pytest.raises(OptionError, match=r"bits is .*; allowed are 1, 2, 3, 4"):
        QuantizeWeights(bits)  # type: ignore[arg-type]


class TestCodebooks:
    @pytest.mark.parametrize(("kind", "bits"), [("symmetric", 2), ("full", 3), ("free", 2), ("free", 4)])
    def test_codes_are_levels_of_a_codebook_of_the_kind(self, kind: str, bits: int) -> None:
        graph = QuantizeWeights(bits, codebook=kind)(GRAPH).after
        for node in graph.nodes(LowBitConv2d, LowBitLinear):
            layer = graph[node]
            assert isinstance(layer, LowBitConv2d | LowBitLinear)
            assert layer.codebook in codebooks_of(bits, kind)
            assert layer.bits == bits
            assert set(layer.codes().unique().tolist()) <= set(layer.codebook.levels)

    def test_freer_ones_move_the_weights_less(self) -> None:
        def moved(kind: str) -> float:
            layer = QuantizeWeights(2, codebook=kind)(GRAPH).after["conv2"]
            assert isinstance(layer, LowBitConv2d)
            return float((layer.quantized_weight() - layer.weight).detach().square().sum())

        symmetric, full, free = map(moved, CODEBOOKS)
        assert symmetric > full > free

    def test_automatic_is_what_the_target_has(self) -> None:
        chip = HardwareTarget("chip", codebook="full")
        layer = QuantizeWeights(2, target=chip, codebook="auto")(GRAPH).after["conv2"]
        assert isinstance(layer, LowBitConv2d)
        assert layer.codebook in codebooks_of(2, "full")[1:]

    def test_others_than_the_target_has_are_refused(self) -> None:
        with pytest.raises(OptionError, match="codebook is 'free'; target 'chip' allows 'symmetric', 'auto'"):
            QuantizeWeights(2, target=HardwareTarget("chip"), codebook="free")

    @pytest.mark.parametrize("codebook", ["auto", "ternary", None])
    def test_other_words_are_refused(self, codebook: object) -> None:
        with pytest.raises(OptionError, match=r"codebook is .*; allowed are 'symmetric', 'full', 'free', and 'auto'"):
            QuantizeWeights(2, codebook=codebook)  # type: ignore[arg-type]
