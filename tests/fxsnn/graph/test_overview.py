"""The layer table of a graph says what its stage knows."""

from __future__ import annotations

from fxsnn import capture, pipeline
from fxsnn.graph import layer_rows
from fxsnn.graph.overview import HEADER
from tests.nets import Small, images, seeded


def test_it_grows_with_the_stages() -> None:
    model = seeded(Small)
    assert layer_rows(capture(model))[1:] == [
        ("conv1", "Conv2d", "-", "-", "-", "-"),
        ("pool", "AvgPool2d", "-", "-", "-", "-"),
        ("conv2", "Conv2d", "-", "-", "-", "-"),
        ("hidden", "Linear", "-", "-", "-", "-"),
    ]
    steps = {
        step.name: step.after for step in pipeline(target="hw_v1.0", bits=2, calibration_data=images()).steps(model)
    }
    calibrated, quantised, spiking = (
        dict(zip(HEADER, layer_rows(steps[name])[1], strict=True))
        for name in ("calibrate-thresholds", "quantize-weights", "substitute-spikes")
    )
    assert float(calibrated["threshold"]) > 0
    assert calibrated["bits"] == "-"
    assert quantised["bits"] == "2"
    low, high = map(float, quantised["weight step"].split(".."))
    assert 0 < low < high
    assert spiking["is a"] == "SpikeConv2d"
    low, high = map(int, spiking["threshold"].split(".."))
    assert 1 <= low < high
    assert spiking["levels"] == "16"
