"""The benchmark compares like with like, and writes what it found."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import simulators
import torch
from peers import PEERS
from torch import nn

import fxsnn
from tests.engines import needs_numba
from tests.nets import Small, images, seeded


def converted(model: nn.Module) -> fxsnn.SpikingNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        return fxsnn.convert(model, target="hw_v1.0", bits=3, calibration_data=images(32), timesteps=8)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_peer_computes_the_same_network(name: str) -> None:
    package, build = PEERS[name]
    pytest.importorskip(package)
    snn = converted(seeded(Small))
    with torch.inference_mode():
        run = build(snn)
        expected = snn(images(8))
        assert torch.equal(run(images(8)), run(images(8))), "it keeps something from call to call"
        # In floats a membrane can miss its threshold by a rounding, and the spike comes a step later.
        assert float((run(images(8)) - expected).abs().mean() / expected.abs().mean()) < 0.02


@needs_numba
@pytest.mark.filterwarnings("ignore")  # the peers', where they are installed
def test_the_script_writes_a_table_plain_data_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulators, "memory_of", lambda *_: 1.5)
    threads = torch.get_num_threads()
    options = ["--network", "DigitNet", "--timesteps", "2", "16", "--batch", "1", "--rounds", "2", "--threads", "1"]
    try:
        assert simulators.main([*options, "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["simulators.json", "simulators.md", "simulators.png"]
    found = json.loads((tmp_path / "simulators.json").read_text())
    rows = {(row["contender"], row["timesteps"]): row for row in found["rows"]}
    assert rows["fxsnn, engine torch", 16]["difference"] == 0
    assert len(rows["fxsnn", 2]["seconds"]) == 2
    assert all(figure["value"] > 0 for figure in found["roofline"])
    text = (tmp_path / "simulators.md").read_text()
    assert "| 1 | 16 | fxsnn | " in text
    assert "time of a step" in text


def test_ratios_are_taken_round_by_round() -> None:
    slow = simulators.Row("slow", 1, 4, seconds=[2.0, 8.0, 6.0])
    fast = simulators.Row("fast", 1, 4, seconds=[1.0, 2.0, 2.0])
    assert simulators.ratio(slow, fast) == (3.0, 2.0, 4.0)
    assert slow.rate == 4 / 6.0
