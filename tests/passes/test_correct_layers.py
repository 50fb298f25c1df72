"""Biases and thresholds suit n-bit weights and real spikes afterwards; nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError, OptionError, PipelineError, TargetError
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit
from fxsnn.neuron import Dynamics
from fxsnn.observe import Watch
from fxsnn.passes import CalibrateThresholds, Canonicalize, CorrectLayers, FoldBatchNorm, QuantizeWeights
from fxsnn.stages import Pipeline
from fxsnn.student import Student, float_form
from fxsnn.substitution import neurons_of
from fxsnn.target import HardwareTarget, Registers
from tests.nets import CONVERTIBLE, Small, images, seeded

V1 = fxsnn.get_target("hw_v1.0")
IMAGES = images(64)


def quantised(model: nn.Module) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    return Pipeline(passes).run(model)


GRAPH = quantised(seeded(Small))


def means(graph: Graph, *, spiking: bool) -> dict[str, Tensor]:
    """Mean of each channel in front of the activation; with the real rates of spikes, or in floating point."""
    found: dict[str, Tensor] = {}
    if spiking:
        student = Student(graph := graph.copy(), V1, Dynamics(8))
        student.simulate(IMAGES)
    nodes = graph.body(nn.Conv2d, nn.Linear)
    with torch.no_grad():
        Watch(graph, nodes, lambda n, x: found.update({graph.name(n): x.transpose(0, 1).flatten(1).mean(1)})).run(
            IMAGES
        )
    return found


@pytest.mark.parametrize("name", list(CONVERTIBLE))
def test_with_corrected_biases_every_channel_has_the_mean_it_has_in_the_float_network(name: str) -> None:
    graph = quantised(seeded(CONVERTIBLE[name]))
    wanted = means(float_form(graph), spiking=False)
    after = CorrectLayers(IMAGES, V1, thresholds=False, timesteps=8)(graph).after
    found = means(after, spiking=True)
    for layer, mean in wanted.items():
        spread = float(mean.abs().mean())
        assert torch.allclose(found[layer], mean, atol=0.01 * spread), layer  # leaks are integers


def test_the_graph_before_and_the_weights_stay() -> None:
    text = GRAPH.text()
    after = CorrectLayers(IMAGES, V1, timesteps=8)(GRAPH).after
    assert GRAPH.text() == text
    for node in GRAPH.nodes(LowBit):
        layer: Any = after[GRAPH.name(node)]
        before: Any = GRAPH[node]
        assert torch.equal(layer.codes(), before.codes())
        assert torch.equal(layer.step, before.step)
        assert not torch.equal(layer.bias, before.bias)


def test_thresholds_alone_leave_the_biases() -> None:
    after = CorrectLayers(IMAGES, V1, biases=False, timesteps=8)(GRAPH).after
    for node in GRAPH.nodes(LowBit):
        layer: Any = after[GRAPH.name(node)]
        before: Any = GRAPH[node]
        assert torch.equal(layer.bias, before.bias)


def test_no_other_threshold_of_the_first_layer_is_much_better() -> None:
    """The error of the rate of 8 steps against the drive, for the threshold found and for others."""
    graph = CorrectLayers(IMAGES, V1, biases=False, timesteps=8)(GRAPH).after
    first = graph.body(LowBit)[0]
    seen: list[Tensor] = []
    Watch(graph, [first], lambda _, x: seen.append(x.detach().clamp(min=0))).run(IMAGES)
    module: Any = graph[next(iter(first.users))]

    def error(threshold: float) -> float:
        return float((ClippedReLU(threshold, 8)(seen[0]) - seen[0]).square().mean())

    best = error(module.threshold)
    assert all(best <= 1.02 * error(module.threshold * factor) for factor in (0.5, 0.7, 0.9, 1.1, 1.4, 2))


def test_a_conversion_is_nearer_to_the_network_with_both(convert: Any) -> None:
    model = seeded(Small)
    with torch.no_grad():
        wanted = model(IMAGES)

    def error(correction: str | None) -> float:
        snn = convert(model, timesteps=8, calibration_data=IMAGES, correction=correction)
        with torch.no_grad():
            return float((snn(IMAGES) - wanted).square().mean())

    assert error("both") < error(None)
    assert error("biases") < error(None)


def test_what_is_not_allowed_is_refused(convert: Any) -> None:
    with pytest.raises(OptionError, match="both False"):
        CorrectLayers(IMAGES, V1, biases=False, thresholds=False)
    with pytest.raises(PipelineError, match="needs data"):
        CorrectLayers(None, V1)(GRAPH)
    with pytest.raises(DataError, match="channels"):
        CorrectLayers(IMAGES[:, :2], V1)(GRAPH)
    with pytest.raises(OptionError, match="correction is 'all'; allowed are 'biases', 'thresholds', 'both', or None"):
        convert(seeded(Small), calibration_data=IMAGES, correction="all")


def test_what_fits_no_register_is_said_without_speaking_of_training() -> None:
    """A bias that is moved beyond the register of the leak."""
    graph = quantised(seeded(Small))
    leaks = [int(row.neuron.leak.abs().max()) for row in neurons_of(graph, V1) if row.neuron is not None]
    width = max(leaks).bit_length() + 1
    narrow = HardwareTarget("narrow", registers=Registers(leak=width))
    with torch.no_grad():
        layer: Any = graph["conv1"]
        layer.float_bias = layer.float_bias + 100
    with pytest.raises(TargetError, match=r"its leak \(bias\) is"):
        CorrectLayers(IMAGES, narrow, timesteps=8)(graph)
