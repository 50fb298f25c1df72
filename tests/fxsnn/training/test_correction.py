"""Codes that are chosen on images: kept where they help, in layers and in the inputs of sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.calibration import MomentMeter
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit, through
from fxsnn.numerics import lowbit
from fxsnn.passes import (
    CalibrateThresholds,
    Canonicalize,
    CorrectLayers,
    FoldBatchNorm,
    QuantizeWeights,
    SubstituteSpikes,
)
from fxsnn.rewriting import Pipeline
from fxsnn.training import correction
from tests.engines import all_spike_alike
from tests.nets import Small, images, seeded
from tests.residual import RESIDUAL

V1, GENERIC = fxsnn.get_target("hw_v1.0"), fxsnn.get_target("generic")
IMAGES = images(48)


def quantised(model: nn.Module, *, per_channel: bool = True) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2, per_channel=per_channel))
    return Pipeline(passes).run(model)


def codes(graph: Graph) -> dict[str, Any]:
    return {graph.name(node): graph[node].codes() for node in graph.body(LowBit)}  # type: ignore[operator]


@pytest.mark.slow
def test_digits_are_nearer_to_the_float_network_with_codes_that_were_chosen() -> None:
    model = fxsnn.datasets.digit_net()
    splits = fxsnn.datasets.load("digits")
    some, others = (torch.stack([part[i][0] for i in range(60)]) for part in (splits.train, splits.test))
    expected = model(others).detach()
    errors = []
    for parts in ("biases", "weights+biases"):
        snn = fxsnn.convert(
            model, target="hw_v1.0", bits=3, timesteps=8, codebook="symmetric", calibration_data=some, correction=parts
        )
        errors.append(float((snn(others).detach() - expected).square().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_codes_that_do_not_help_are_not_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    graph = quantised(seeded(Small))
    without = CorrectLayers(IMAGES, V1, weights=False, timesteps=8)(graph).after

    def opposite(weight: Any, step: Any, codebook: Any, moments: Any, *, fit: bool) -> Any:
        return step.double(), -lowbit.weight_codes(weight, step, codebook).double()

    monkeypatch.setattr(correction, "reconstructed", opposite)
    with caplog.at_level("INFO", logger="fxsnn"):
        after = CorrectLayers(IMAGES, V1, timesteps=8)(graph).after
    assert "codes were chosen on the data in: no layer" in caplog.text
    for name, one in codes(without).items():
        assert torch.equal(codes(after)[name], one)
    for node in after.body(LowBit, ClippedReLU):
        ours: Any = after[node]
        other: Any = without[after.name(node)] if after.is_a(node, LowBit) else without[str(node.target)]
        assert getattr(ours, "threshold", None) == getattr(other, "threshold", None)
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_codes_that_fit_no_register_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = quantised(seeded(Small))
    without = CorrectLayers(IMAGES, V1, weights=False, timesteps=8)(graph).after

    def tiny(weight: Any, step: Any, codebook: Any, moments: Any, *, fit: bool) -> Any:
        return step.double() * 1e-9, lowbit.weight_codes(weight, step, codebook).double()

    monkeypatch.setattr(correction, "reconstructed", tiny)
    after = CorrectLayers(IMAGES, V1, timesteps=8)(graph).after
    for name, one in codes(without).items():
        assert torch.equal(codes(after)[name], one)
    SubstituteSpikes(V1, 8)(after)  # all values are in their registers


@pytest.mark.parametrize("per_channel", [True, False])
def test_steps_are_one_an_output_or_the_layer_s_own(per_channel: bool, caplog: pytest.LogCaptureFixture) -> None:
    graph = quantised(seeded(Small), per_channel=per_channel)
    with caplog.at_level("INFO", logger="fxsnn"):
        after = CorrectLayers(IMAGES, V1, timesteps=8)(graph).after
    assert "conv2" in caplog.text
    before, found = codes(graph), codes(after)
    assert any(not torch.equal(before[name], found[name]) for name in before)
    for node in after.body(LowBit):
        layer: Any = after[node]
        assert set(layer.codes().unique().tolist()) <= set(layer.codebook.levels)
        if not per_channel:
            given: Any = graph[after.name(node)]
            assert torch.equal(layer.step, given.step)
    chosen: Any = after["conv2"]  # what is trained from here on starts from these codes
    torch.testing.assert_close(chosen.weight, chosen.quantized_weight())


@pytest.mark.parametrize("name", ["blocks", "dense"])
@pytest.mark.filterwarnings("ignore:the spiking network cannot be saved", "ignore:2-bit weights without fine-tuning")
def test_inputs_of_sums_get_codes_whose_gain_stays(name: str) -> None:
    model, others = RESIDUAL[name](), images(32, seed=9)
    expected = model(others).detach()
    errors = []
    for parts in ("biases", "weights+biases"):
        snn = fxsnn.convert(
            model,
            target="generic",
            bits=2,
            timesteps=8,
            codebook="symmetric",
            calibration_data=IMAGES,
            correction=parts,
        )
        errors.append(float((snn(others).detach() - expected).square().mean()))
        assert all_spike_alike(snn, others[:2])
    assert errors[1] < 1.5 * errors[0]  # images of noise have inputs that know nothing of each other: no gain


def test_a_quarter_of_the_images_is_held_out_however_many_come_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Counting(MomentMeter):
        def products(self, real: Any, wanted: Any, number: int = 0) -> Any:
            counts.append(len(real))
            return super().products(real, wanted, number)

    monkeypatch.setattr(correction, "MomentMeter", Counting)
    graph = quantised(seeded(Small))
    for size in (1, 3, 48):
        counts.clear()
        CorrectLayers(list(IMAGES.split(size)), V1, timesteps=8)(graph)
        assert sum(counts) == 36 * len(codes(graph))


def test_loaders_whose_workers_stay_are_read_once_at_a_time() -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.zeros(48)), 12, num_workers=1, persistent_workers=True)
    graph = quantised(seeded(Small))
    found = CorrectLayers(loader, V1, timesteps=8)(graph).after
    assert found.text() == CorrectLayers(list(IMAGES.split(12)), V1, timesteps=8)(graph).after.text()


class Shifted(nn.Module):
    """3x12x12: a batch norm in front of a convolution shifts what that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(512, 5)
        nn.init.constant_(self.norm.bias, 2.0)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.second(self.norm(torch.relu(self.first(x)))))
        return self.last(x.flatten(1))


def test_what_was_added_to_inputs_goes_through_the_codes_that_are_chosen() -> None:
    pipeline = fxsnn.pipeline(target="generic", bits=2, calibration_data=IMAGES, correction=None)
    graph = pipeline.until("quantize-weights").run(seeded(Shifted).eval())
    found = CorrectLayers(IMAGES, GENERIC, biases=False, thresholds=False, timesteps=8)(graph).after
    before: Any = graph["second"]
    after: Any = found["second"]
    assert not torch.equal(before.codes(), after.codes())
    moved = through(after, after.input_shift, after.quantized_weight())
    moved -= through(before, before.input_shift, before.quantized_weight())
    torch.testing.assert_close(after.bias.double(), before.bias.double() + moved, rtol=1e-4, atol=1e-5)


def test_one_image_is_enough() -> None:
    after = CorrectLayers(IMAGES[:1], V1, timesteps=8)(quantised(seeded(Small))).after
    assert torch.isfinite(after(IMAGES[:2])).all()
