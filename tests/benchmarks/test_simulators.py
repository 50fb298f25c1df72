"""The benchmark writes what it found: table, plain data, plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import simulators
import torch
from simulators_report import Row, ratios

from tests.engines import needs_numba


@needs_numba
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of other simulators, where they are installed
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
    assert rows["fxsnn, engine torch", 16]["deviation"] == 0
    assert len(rows["fxsnn", 2]["seconds"]) == 2
    assert all(figure["value"] > 0 for figure in found["roofline"])
    text = (tmp_path / "simulators.md").read_text()
    assert "| 1 | 16 | fxsnn | " in text
    assert "time of a step" in text
    assert "share of the peak" in text


def test_ratios_are_taken_round_by_round() -> None:
    slow = Row("slow", "", 1, 4, seconds=(2.0, 8.0, 6.0))
    fast = Row("fast", "", 1, 4, seconds=(1.0, 2.0, 2.0))
    assert ratios(slow, fast) == [2.0, 4.0, 3.0]
    assert slow.rate == 4 / 6.0


@pytest.mark.slow
def test_memory_is_what_one_run_needs_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert (
            simulators.main(["--network", "DigitNet", "--memory", "fxsnn, engine torch", "channels first", "16", "64"])
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    assert 1 < float(capsys.readouterr().out) < 2000
