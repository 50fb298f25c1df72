"""The layer table of a graph says what its stage knows."""

from __future__ import annotations

from fxsnn import capture, pipeline
from fxsnn.graph import layer_rows
from fxsnn.graph.overview import HEADER
from tests.nets import Small, images, seeded
from tests.residual import Residual


def test_it_grows_with_the_stages() -> None:
    model = seeded(Small)
    assert layer_rows(capture(model))[1:] == [
        ("conv1", "Conv2d", "-", "-", "-", "-", "-"),
        ("pool", "AvgPool2d", "-", "-", "-", "-", "-"),
        ("conv2", "Conv2d", "-", "-", "-", "-", "-"),
        ("hidden", "Linear", "-", "-", "-", "-", "-"),
    ]
    passes = pipeline(target="hw_v1.0", bits=2, codebook="symmetric", calibration_data=images())
    steps = {step.name: step.after for step in passes.steps(model)}
    calibrated, quantised, spiking = (
        dict(zip(HEADER, layer_rows(steps[name])[1], strict=True))
        for name in ("calibrate-thresholds", "quantize-weights", "substitute-spikes")
    )
    assert float(calibrated["threshold"]) > 0
    assert calibrated["bits"] == "-"
    assert (quantised["bits"], quantised["codebook"]) == ("2", "-1..1")
    low, high = map(float, quantised["weight step"].split(".."))
    assert 0 < low < high
    assert spiking["is a"] == "SpikeConv2d"
    low, high = map(int, spiking["threshold"].split(".."))
    assert 1 <= low < high
    assert spiking["levels"] == "16"


def test_sums_and_their_weighted_inputs_have_rows() -> None:
    stages = pipeline(target="generic", bits=2, calibration_data=images(), correction=None).steps(seeded(Residual))
    steps = {step.name: step.after for step in stages}
    quantised, spiking = (
        {row[0]: dict(zip(HEADER, row, strict=True)) for row in layer_rows(steps[name])}
        for name in ("quantize-weights", "substitute-spikes")
    )
    assert quantised["block1.conv2"]["threshold"] == "-"
    assert float(quantised["block1.add"]["threshold"]) > 0
    assert [spiking["block1.conv2"][key] for key in ("is a", "bits", "threshold", "levels")] == [
        "SynapseConv2d", "2", "-", "-",
    ]  # fmt: skip
    assert spiking["block1.add"]["is a"] == "SpikeAdd"
    low, high = map(int, spiking["block1.add"]["threshold"].split(".."))
    assert 1 <= low < high


def test_drawings_tell_sums_and_synapses() -> None:
    stages = pipeline(target="generic", bits=2, calibration_data=images(), correction=None).steps(seeded(Residual))
    steps = {step.name: step.after for step in stages}
    assert "Add of 2" in steps["quantize-weights"].draw().svg
    assert "sum, wiring" in steps["quantize-weights"].draw().svg
    svg = steps["substitute-spikes"].draw().svg
    assert "SpikeAdd of 2" in svg
    assert "SynapseConv2d 6→6, 3×3, 2 bit" in svg
